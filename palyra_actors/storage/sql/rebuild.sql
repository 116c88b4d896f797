-- name: rebuild.events
SELECT e.seq, e.event_id, e.stream, e.stream_seq, e.session_id, e.run_id, e.kind, e.actor, p.name, e.ts_ms,
       e.recorded_ms, e.payload, s.kind, s.stream_id
FROM events e JOIN streams s USING (stream) JOIN principals p ON p.principal = e.principal
WHERE e.seq > ? AND e.seq <= ?
ORDER BY e.seq

-- name: rebuild.principals
SELECT principal, name FROM principals

-- name: rebuild.streams
SELECT stream, kind, stream_id, principal, created_ms FROM streams ORDER BY stream
