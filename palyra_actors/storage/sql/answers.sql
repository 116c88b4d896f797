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

-- name: answer.event
SELECT stream FROM events WHERE event_id = ?

-- name: answer.of_events
SELECT a.event_id, a.digest, a.answer, a.stream, s.kind, s.stream_id, e.seq
FROM answers a LEFT JOIN streams s USING (stream) LEFT JOIN events e ON e.event_id = a.event_id
WHERE a.event_id > ? ORDER BY a.event_id LIMIT ?

-- name: answer.of_idle
SELECT a.event_id, a.digest, a.answer, a.stream, s.kind, s.stream_id, NULL
FROM idle_answers a LEFT JOIN streams s USING (stream)
WHERE a.event_id > ? ORDER BY a.event_id LIMIT ?
