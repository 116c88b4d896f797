-- name: gone.runs
INSERT INTO gone (id, kind, stream, place) SELECT run_id, 1, stream, first FROM runs WHERE stream = ?

-- name: gone.approvals
INSERT INTO gone (id, kind, stream, place) SELECT approval_id, 2, stream, seq FROM approvals WHERE stream = ?

-- name: gone.memory
INSERT INTO gone (id, kind, stream, place) SELECT i.memory_id, 3, i.stream, i.seq FROM memory_items i WHERE i.seq = ?
ON CONFLICT DO NOTHING

-- name: gone.is_memory
SELECT 1 FROM gone g WHERE g.id = ?1 AND g.kind = 3 AND g.stream = ?2
UNION ALL SELECT 1 FROM memory_items i INDEXED BY memory_in_order WHERE i.stream = ?2 AND i.memory_id = ?1

-- name: gone.memories
-- Whose scopes have a memory of that id, or had one.
SELECT g.stream FROM gone g WHERE g.id = ?1 AND g.kind = 3
UNION ALL SELECT i.stream FROM memory_items i WHERE i.memory_id = ?1

-- name: gone.find
SELECT g.stream, p.name, g.place
FROM gone g JOIN streams s USING (stream) JOIN principals p USING (principal)
WHERE g.id = ? AND g.kind = ?

-- name: gone.any
SELECT EXISTS (SELECT 1 FROM gone)

-- name: gone.run_again
SELECT 1 FROM gone g JOIN runs r ON r.run_id = g.id WHERE g.id = ? AND g.kind = 1

-- name: gone.approval_again
SELECT 1 FROM gone g JOIN approvals a ON a.approval_id = g.id WHERE g.id = ? AND g.kind = 2

-- name: gone.carried
-- An erasure is its session's last event; the place of a memory is the event that made it.
SELECT g.id, g.kind, s.stream_id, g.place, s.kind
FROM gone g JOIN streams s USING (stream) JOIN ends h USING (stream)
WHERE CASE g.kind WHEN 2 THEN h.seq WHEN 3 THEN g.place END <= ?1 AND g.id >= ?2 AND (g.id, g.kind, s.stream_id) > (?2, ?3, ?4)
ORDER BY g.id, g.kind, s.stream_id LIMIT ?5

-- name: gone.may_be_of
SELECT 1 FROM sessions WHERE stream = ? AND status = 3

-- name: gone.carry
INSERT INTO gone (id, kind, stream, place) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING
