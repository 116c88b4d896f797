-- name: session.insert
INSERT INTO sessions (stream, session_id, owner, session_key, title, status, parent, at_seq, depth,
                      created_ms, runs, last_run, tokens_in, tokens_out)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: session.count
UPDATE sessions SET runs = ?, last_run = ?, tokens_in = ?, tokens_out = ? WHERE stream = ?

-- name: session.name
UPDATE sessions SET session_key = ?, title = ? WHERE stream = ?

-- name: session.archive
UPDATE sessions SET status = 2 WHERE stream = ?

-- name: session.erase
UPDATE sessions SET status = 3, session_key = NULL, title = NULL, runs = 0, last_run = NULL,
                    tokens_in = 0, tokens_out = 0
WHERE stream = ?

-- name: session.index
INSERT INTO session_texts (rowid, owner, words)
SELECT stream, 'o' || hex(owner) || CASE status WHEN 2 THEN ' archived' ELSE '' END, ? FROM sessions WHERE stream = ?

-- name: session.index_archived
UPDATE session_texts SET owner = owner || ' archived' WHERE rowid = ? AND owner NOT LIKE '% archived'

-- name: session.unindex
DELETE FROM session_texts WHERE rowid = ?

-- name: session.state
SELECT status, session_key, title, parent, at_seq, depth, created_ms, runs, last_run, tokens_in, tokens_out
FROM sessions WHERE stream = ?

-- name: session.by_key
SELECT session_id FROM sessions WHERE owner = ? AND session_key = ?

-- name: session.by_stream
SELECT s.session_id, s.owner, h.stream_seq,
       CASE WHEN e.kind >= 100 AND e.kind < 1000 THEN e.ts_ms ELSE e.recorded_ms END,
       s.status, s.session_key, s.title, s.parent, s.at_seq, s.depth, s.created_ms, s.runs, s.last_run,
       s.tokens_in, s.tokens_out, s.stream
FROM sessions s JOIN ends h USING (stream) JOIN events e ON e.seq = h.seq
WHERE s.stream = ?

-- name: session.all
SELECT s.session_id, s.owner, h.stream_seq,
       CASE WHEN e.kind >= 100 AND e.kind < 1000 THEN e.ts_ms ELSE e.recorded_ms END,
       s.status, s.session_key, s.title, s.parent, s.at_seq, s.depth, s.created_ms, s.runs, s.last_run,
       s.tokens_in, s.tokens_out, s.stream
FROM sessions s JOIN ends h USING (stream) JOIN events e ON e.seq = h.seq
WHERE s.stream > ? AND s.status <> 3
ORDER BY s.stream LIMIT ?

-- name: session.with_status
SELECT s.session_id, s.owner, h.stream_seq,
       CASE WHEN e.kind >= 100 AND e.kind < 1000 THEN e.ts_ms ELSE e.recorded_ms END,
       s.status, s.session_key, s.title, s.parent, s.at_seq, s.depth, s.created_ms, s.runs, s.last_run,
       s.tokens_in, s.tokens_out, s.stream
FROM sessions s JOIN ends h USING (stream) JOIN events e ON e.seq = h.seq
WHERE s.status = ? AND s.stream > ?
ORDER BY s.stream LIMIT ?

-- name: session.of_owner
SELECT s.session_id, s.owner, h.stream_seq,
       CASE WHEN e.kind >= 100 AND e.kind < 1000 THEN e.ts_ms ELSE e.recorded_ms END,
       s.status, s.session_key, s.title, s.parent, s.at_seq, s.depth, s.created_ms, s.runs, s.last_run,
       s.tokens_in, s.tokens_out, s.stream
FROM sessions s JOIN ends h USING (stream) JOIN events e ON e.seq = h.seq
WHERE s.owner = ? AND s.stream > ? AND s.status <> 3
ORDER BY s.stream LIMIT ?

-- name: session.of_owner_with_status
SELECT s.session_id, s.owner, h.stream_seq,
       CASE WHEN e.kind >= 100 AND e.kind < 1000 THEN e.ts_ms ELSE e.recorded_ms END,
       s.status, s.session_key, s.title, s.parent, s.at_seq, s.depth, s.created_ms, s.runs, s.last_run,
       s.tokens_in, s.tokens_out, s.stream
FROM sessions s JOIN ends h USING (stream) JOIN events e ON e.seq = h.seq
WHERE s.owner = ? AND s.status = ? AND s.stream > ?
ORDER BY s.stream LIMIT ?

-- name: session.matching
SELECT s.session_id, s.owner, h.stream_seq,
       CASE WHEN e.kind >= 100 AND e.kind < 1000 THEN e.ts_ms ELSE e.recorded_ms END,
       s.status, s.session_key, s.title, s.parent, s.at_seq, s.depth, s.created_ms, s.runs, s.last_run,
       s.tokens_in, s.tokens_out, s.stream
FROM session_texts t CROSS JOIN sessions s ON s.stream = t.rowid
JOIN ends h USING (stream) JOIN events e ON e.seq = h.seq
WHERE t.session_texts MATCH ? AND t.rowid > ? AND s.status IN (?, ?)
ORDER BY t.rowid LIMIT ?

-- name: erasure.insert
INSERT INTO erasures (stream, seq) VALUES (?, ?)

-- name: erasure.between_snapshots
INSERT INTO erasures (seq, stream, floor)
SELECT upto.seq, upto.stream, since.seq FROM canvas_snapshots upto JOIN canvas_snapshots since USING (stream)
WHERE upto.stream = ?1 AND upto.version = ?2 AND since.version = ?3

-- name: erasure.all
SELECT stream, seq, floor FROM erasures ORDER BY seq

-- name: erasure.delete
DELETE FROM erasures WHERE seq = ?

-- name: erasure.session
SELECT stream_id FROM streams WHERE stream = ? AND kind = 1

-- name: answer.erase
UPDATE answers SET answer = NULL WHERE stream = ? AND event_id <> ?

-- name: answer.erase_idle
UPDATE idle_answers SET answer = NULL WHERE stream = ?

-- name: erasure.slice
WITH RECURSIVE walk (seq, left) AS (
    SELECT :seq - e.link, :rows FROM events e
    WHERE e.seq = :seq AND e.stream = :stream AND e.link > 0 AND e.seq - e.link >= :floor
    UNION ALL
    SELECT e.seq - e.link, w.left - 1 FROM walk w JOIN events e USING (seq)
    WHERE e.link > 0 AND w.left > 1 AND e.seq - e.link >= :floor
)
SELECT w.seq, e.payload FROM walk w JOIN events e USING (seq) ORDER BY w.seq DESC

-- name: erasure.payload
UPDATE events SET payload_sha256 = ?, payload = NULL WHERE seq = ? AND payload IS NOT NULL AND kind <> 103
