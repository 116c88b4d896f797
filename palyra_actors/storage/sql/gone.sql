-- name: gone.runs
INSERT INTO gone (id, kind, stream, place) SELECT run_id, 1, stream, first FROM runs WHERE stream = ?

-- name: gone.approvals
INSERT INTO gone (id, kind, stream, place) SELECT approval_id, 2, stream, seq FROM approvals WHERE stream = ?

-- name: gone.memory
-- Of what is destroyed, that which came from an erased session.
INSERT INTO gone (id, kind, stream, place)
SELECT i.memory_id, 3, i.stream, i.seq FROM memory_items i
WHERE i.seq = ?
      AND (EXISTS (SELECT 1 FROM streams t JOIN sessions s USING (stream)
                   WHERE t.stream_id = i.session_id AND t.kind = 1 AND s.status = 3)
           OR EXISTS (SELECT 1 FROM events e JOIN streams t ON t.stream_id = e.session_id AND t.kind = 1
                      JOIN sessions s ON s.stream = t.stream
                      WHERE e.event_id = i.from_event AND s.status = 3)
           OR EXISTS (SELECT 1 FROM events e JOIN sessions s USING (stream)
                      WHERE e.event_id = i.from_event AND s.status = 3))
ON CONFLICT DO NOTHING

-- name: gone.is_memory
SELECT 1 FROM gone g WHERE g.id = ? AND g.kind = 3 AND g.stream = ?

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
FROM gone g JOIN streams s USING (stream) JOIN heads h USING (stream)
WHERE CASE g.kind WHEN 2 THEN h.seq WHEN 3 THEN g.place END <= ?1 AND g.id >= ?2 AND (g.id, g.kind, s.stream_id) > (?2, ?3, ?4)
ORDER BY g.id, g.kind, s.stream_id LIMIT ?5

-- name: gone.may_be_of
SELECT 1 FROM sessions WHERE stream = ? AND status = 3

-- name: gone.carry
INSERT INTO gone (id, kind, stream, place) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING
