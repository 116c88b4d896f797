-- name: answer.insert
INSERT INTO answers (event_id, stream, digest, answer) VALUES (?, ?, ?, ?)

-- name: answer.idle
INSERT INTO idle_answers (event_id, stream, digest, answer) VALUES (?, ?, ?, ?)

-- name: answer.find
SELECT a.digest, a.answer, s.kind, s.stream_id FROM answers a JOIN streams s USING (stream) WHERE a.event_id = ?1
UNION ALL
SELECT a.digest, a.answer, s.kind, s.stream_id FROM idle_answers a LEFT JOIN streams s USING (stream)
WHERE a.event_id = ?1

-- name: answer.is_idle
SELECT 1 FROM idle_answers WHERE event_id = ?

-- name: answer.any_idle
SELECT EXISTS (SELECT 1 FROM idle_answers)

-- name: answer.clash
SELECT 1 FROM events e CROSS JOIN idle_answers a ON a.event_id = e.event_id WHERE e.seq >= ? LIMIT 1

-- name: answer.settle
UPDATE idle_answers SET answer = :answer WHERE event_id = :id AND answer = :begun
