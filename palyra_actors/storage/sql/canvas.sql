-- name: canvas.insert
INSERT INTO canvases (stream, session_id, owner, version, sha256, schema_version, created_ms, updated_ms, expires_ms,
                      history_bytes)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: canvas.step
UPDATE canvases SET version = ?, sha256 = ?, updated_ms = ?, history_bytes = ? WHERE stream = ?

-- name: canvas.weigh
UPDATE canvases SET history_bytes = ? WHERE stream = ?

-- name: canvas.restate
UPDATE canvases SET sha256 = ?, schema_version = ?, created_ms = ?, expires_ms = ?,
                    close_reason = ?, history_bytes = ?, horizon = ?
WHERE stream = ?

-- name: canvas.close
UPDATE canvases SET closed = 1, close_reason = ?, updated_ms = ? WHERE stream = ?

-- name: canvas.erase
UPDATE canvases SET sha256 = x'', schema_version = 1, updated_ms = ?, expires_ms = NULL, closed = 1,
                    close_reason = ?, history_bytes = 0, horizon = version + 1
WHERE stream = ?

-- name: canvas.of_session
-- What somebody else made before the session was there is not of it.
SELECT s.stream_id, c.owner FROM canvases c JOIN streams s USING (stream)
JOIN streams t ON t.stream_id = c.session_id AND t.kind = 1 JOIN sessions e ON e.stream = t.stream
WHERE c.session_id = ? AND c.horizon <= c.version AND (c.owner = e.owner OR c.created_ms >= e.created_ms)
ORDER BY c.stream LIMIT ?

-- name: canvas.left_behind
SELECT s.stream_id, c.owner FROM sessions e JOIN canvases c ON c.session_id = e.session_id JOIN streams s ON s.stream = c.stream
WHERE e.status = 3 AND c.horizon <= c.version AND (c.owner = e.owner OR c.created_ms >= e.created_ms) LIMIT ?

-- name: canvas.left_behind_in
SELECT s.stream_id, c.owner
FROM streams t JOIN sessions e ON e.stream = t.stream JOIN canvases c ON c.session_id = t.stream_id
     JOIN streams s ON s.stream = c.stream
WHERE t.stream_id = ? AND t.kind = 1 AND e.status = 3 AND c.horizon <= c.version
      AND (c.owner = e.owner OR c.created_ms >= e.created_ms)
LIMIT ?

-- name: canvas.insert_snapshot
INSERT INTO canvas_snapshots (stream, version, stream_seq, seq, bytes) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (stream, version)
DO UPDATE SET stream_seq = excluded.stream_seq, seq = excluded.seq, bytes = excluded.bytes

-- name: canvas.rebase_snapshots
UPDATE canvas_snapshots SET bytes = bytes - ? WHERE stream = ?

-- name: canvas.marks
SELECT version, bytes FROM canvas_snapshots WHERE stream = ? ORDER BY version

-- name: canvas.drop_snapshots
DELETE FROM canvas_snapshots WHERE stream = ? AND version < ?

-- name: canvas.row
SELECT version, sha256, session_id, schema_version, created_ms, updated_ms, expires_ms, closed, close_reason,
       history_bytes, horizon, owner
FROM canvases WHERE stream = ?

-- name: canvas.snapshot_before
SELECT version, stream_seq FROM canvas_snapshots WHERE stream = ? AND version <= ? ORDER BY version DESC LIMIT 1

-- name: canvas.due
SELECT s.stream_id, c.owner FROM canvases c JOIN streams s USING (stream)
WHERE c.closed = 0 AND c.expires_ms IS NOT NULL AND c.expires_ms <= ?
ORDER BY c.expires_ms LIMIT ?
