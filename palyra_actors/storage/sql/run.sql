-- name: run.insert
INSERT INTO runs (run_id, stream, state, first, last, entries, open, managed, parent, reason, tokens_in,
                  tokens_out, created_ms, ended_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: run.update
UPDATE runs SET state = ?, last = ?, entries = ?, open = ?, reason = ?, tokens_in = ?, tokens_out = ?,
                ended_ms = coalesce(ended_ms, ?)
WHERE run_id = ?

-- name: run.move
UPDATE runs SET entries = ?, open = ? WHERE run_id = ?

-- name: run.forget
DELETE FROM runs WHERE stream = ?

-- name: run.find
SELECT r.state, r.first, r.last, r.entries, r.open, r.managed, r.parent, r.reason, r.tokens_in, r.tokens_out,
       r.created_ms, r.ended_ms, r.run_id, s.stream_id, p.name, r.stream
FROM runs r JOIN streams s USING (stream) JOIN principals p USING (principal)
WHERE r.run_id = ?

-- name: run.of_stream
SELECT r.state, r.first, r.last, r.entries, r.open, r.managed, r.parent, r.reason, r.tokens_in, r.tokens_out,
       r.created_ms, r.ended_ms, r.run_id, s.stream_id, p.name, r.stream
FROM runs r JOIN streams s USING (stream) JOIN principals p USING (principal)
WHERE r.stream = ? AND r.first > ?
ORDER BY r.first LIMIT ?

-- name: run.of_owner
SELECT r.state, r.first, r.last, r.entries, r.open, r.managed, r.parent, r.reason, r.tokens_in, r.tokens_out,
       r.created_ms, r.ended_ms, r.run_id, s.session_id, s.owner, r.stream
FROM sessions s CROSS JOIN runs r ON r.stream = s.stream
WHERE s.owner = ?1 AND s.stream >= ?2 AND (r.stream > ?2 OR r.first > ?3)
ORDER BY s.stream, r.first LIMIT ?4

-- name: run.all
SELECT r.state, r.first, r.last, r.entries, r.open, r.managed, r.parent, r.reason, r.tokens_in, r.tokens_out,
       r.created_ms, r.ended_ms, r.run_id, s.session_id, s.owner, r.stream
FROM runs r JOIN sessions s USING (stream)
WHERE (r.stream, r.first) > (?1, ?2)
ORDER BY r.stream, r.first LIMIT ?3

-- name: run.under_way
SELECT r.run_id, s.stream_id, p.name
FROM runs r JOIN streams s USING (stream) JOIN principals p USING (principal)
WHERE r.managed = 1 AND r.state IN (1, 5, 6) AND r.run_id > ?
ORDER BY r.run_id LIMIT ?
