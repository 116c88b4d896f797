-- name: insert_event
INSERT INTO events (seq, event_id, stream, stream_seq, link, session_id, run_id, kind, actor,
                    principal, ts_ms, recorded_ms, redacted, traceparent, payload, payload_sha256, hash)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_principal
INSERT INTO principals (principal, name) VALUES (?, ?)

-- name: insert_stream
INSERT INTO streams (stream, kind, stream_id, principal, created_ms) VALUES (?, ?, ?, ?, ?)

-- name: move_head
INSERT INTO warm_heads (stream, stream_seq, seq) VALUES (?, ?, ?)
ON CONFLICT (stream) DO UPDATE SET stream_seq = excluded.stream_seq, seq = excluded.seq

-- name: warm_heads
SELECT count(*) FROM warm_heads

-- name: cold_from
-- The last event whose head is not among the ? that moved last.
SELECT seq FROM warm_heads ORDER BY seq DESC LIMIT 1 OFFSET ?

-- name: cold_upto
SELECT max(stream) FROM (SELECT stream FROM warm_heads WHERE seq <= ? ORDER BY stream LIMIT ?)

-- name: cool_heads
INSERT INTO heads (stream, stream_seq, seq)
SELECT stream, stream_seq, seq FROM warm_heads WHERE seq <= ? AND stream <= ? ORDER BY stream
ON CONFLICT (stream) DO UPDATE SET stream_seq = excluded.stream_seq, seq = excluded.seq

-- name: forget_warm
DELETE FROM warm_heads WHERE seq <= ? AND stream <= ?

-- name: insert_mark
INSERT INTO marks (stream, mark, seq) VALUES (?, ?, ?)

-- name: head
SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1

-- name: last_recorded
SELECT coalesce((SELECT recorded_ms FROM events ORDER BY seq DESC LIMIT 1), 0)

-- name: stream_owners
SELECT s.kind, s.stream_id, p.name FROM streams s JOIN principals p USING (principal)

-- name: has_journal
SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'events'

-- name: principal_names
SELECT name, principal FROM principals

-- name: last_stream
SELECT coalesce(max(stream), 0) FROM streams

-- name: stream
SELECT s.stream, p.name, s.created_ms, h.stream_seq, h.seq
FROM streams s JOIN ends h USING (stream) JOIN principals p USING (principal)
WHERE s.stream_id = ? AND s.kind = ?

-- name: run
SELECT r.stream, p.name, r.state, r.first, r.last, r.entries, r.open, r.managed, r.parent, r.reason,
       r.tokens_in, r.tokens_out, r.created_ms, r.ended_ms
FROM runs r JOIN streams s USING (stream) JOIN principals p USING (principal)
WHERE r.run_id = ?1
UNION ALL
SELECT g.stream, p.name, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM gone g JOIN streams s USING (stream) JOIN principals p USING (principal)
WHERE g.id = ?1 AND g.kind = 1

-- name: ends_behind
SELECT e.seq, e.stream FROM events e LEFT JOIN ends h USING (stream)
WHERE e.seq >= ? AND (h.seq IS NULL OR h.seq < e.seq)
ORDER BY e.seq DESC LIMIT 1

-- name: ends_elsewhere
SELECT h.seq, h.stream FROM ends h LEFT JOIN events e ON e.seq = h.seq
WHERE h.seq >= ? AND (e.stream IS NOT h.stream OR e.stream_seq <> h.stream_seq)
LIMIT 1

-- name: stream_tail
SELECT seq FROM ends WHERE stream = ?

-- name: stream_last_mark
SELECT coalesce(max(mark), 0) FROM marks WHERE stream = ?

-- name: mark
SELECT seq FROM marks WHERE stream = ? AND mark = ?

-- name: hash_at
SELECT hash FROM events WHERE seq = ?

-- name: event_by_id
SELECT e.seq, e.event_id, s.kind, s.stream_id, e.stream_seq, e.session_id, e.run_id, e.kind,
       e.actor, p.name, e.ts_ms, e.recorded_ms, e.redacted, e.traceparent, e.payload,
       e.payload_sha256, e.hash, (SELECT b.hash FROM events b WHERE b.seq = e.seq - 1)
FROM events e JOIN streams s USING (stream) JOIN principals p ON p.principal = e.principal
WHERE e.event_id = ?

-- name: events_after
SELECT e.seq, e.event_id, s.kind, s.stream_id, e.stream_seq, e.session_id, e.run_id, e.kind,
       e.actor, p.name, e.ts_ms, e.recorded_ms, e.redacted, e.traceparent, e.payload,
       e.payload_sha256, e.hash, (SELECT b.hash FROM events b WHERE b.seq = e.seq - 1),
       s.principal
FROM events e JOIN streams s USING (stream) JOIN principals p ON p.principal = e.principal
WHERE e.seq > ? AND e.seq <= ?
ORDER BY e.seq

-- name: chain_after
-- What a reader of events needs, and whether `link` leads to the stream's event before this one.
SELECT e.seq, e.event_id, s.kind, s.stream_id, e.stream_seq, e.session_id, e.run_id, e.kind,
       e.actor, p.name, e.ts_ms, e.recorded_ms, e.redacted, e.traceparent, e.payload,
       e.payload_sha256, e.hash, NULL,
       CASE e.link WHEN 0 THEN e.stream_seq = 1 OR e.kind = 103
       ELSE (SELECT b.stream = e.stream AND b.stream_seq = e.stream_seq - 1
             FROM events b WHERE b.seq = e.seq - e.link) END
FROM events e JOIN streams s USING (stream) JOIN principals p ON p.principal = e.principal
WHERE e.seq > ? AND e.seq <= ?
ORDER BY e.seq

-- name: stream_events_back
WITH RECURSIVE walk (seq) AS (
    SELECT ?1
    UNION ALL
    SELECT e.seq - e.link FROM events e JOIN walk USING (seq) WHERE e.link > 0 AND e.seq - e.link > ?2
)
SELECT e.seq, e.event_id, s.kind, s.stream_id, e.stream_seq, e.session_id, e.run_id, e.kind,
       e.actor, p.name, e.ts_ms, e.recorded_ms, e.redacted, e.traceparent, e.payload,
       e.payload_sha256, e.hash, (SELECT b.hash FROM events b WHERE b.seq = e.seq - 1),
       s.principal
FROM walk CROSS JOIN events e ON e.seq = walk.seq
JOIN streams s USING (stream) JOIN principals p ON p.principal = e.principal
ORDER BY e.seq

-- name: last_events
SELECT e.seq, e.event_id, s.kind, s.stream_id, e.stream_seq, e.session_id, e.run_id, e.kind,
       e.actor, p.name, e.ts_ms, e.recorded_ms, e.redacted, e.traceparent, e.payload,
       e.payload_sha256, e.hash, (SELECT b.hash FROM events b WHERE b.seq = e.seq - 1)
FROM events e JOIN streams s USING (stream) JOIN principals p ON p.principal = e.principal
WHERE e.seq > (SELECT coalesce(max(seq), 0) FROM events) - ?
ORDER BY e.seq
