-- name: answer.insert
INSERT INTO answers (event_id, stream, digest, answer) VALUES (?, ?, ?, ?)

-- name: answer.find
SELECT a.digest, a.answer, s.kind, s.stream_id FROM answers a JOIN streams s USING (stream) WHERE a.event_id = ?

