-- name: answer.insert
INSERT INTO answers (event_id, stream, digest, answer) VALUES (?, ?, ?, ?)

-- name: answer.find
SELECT digest, answer FROM answers WHERE event_id = ?

