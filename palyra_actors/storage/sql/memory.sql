-- name: memory.scope
INSERT INTO memory_scopes (stream, owner) VALUES (?, ?)

-- name: memory.insert
INSERT INTO memory_items (seq, stream, memory_id, key, session_id, channel, source, created_ms, expires_ms,
                          from_event, bytes, words)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: memory.index
INSERT INTO memory_texts (rowid, words) VALUES (?, ?)

-- name: memory.tag
INSERT INTO memory_tags (stream, tag, seq) VALUES (?, ?, ?)

-- name: memory.supersede
UPDATE memory_items SET superseded_by = ?, superseded_ms = ? WHERE stream = ? AND memory_id = ?

-- name: memory.mark
UPDATE memory_items SET dead = ? WHERE stream = ? AND memory_id = ? AND dead IS NULL

-- name: memory.work
INSERT INTO memory_work (seq, stream, selects, session_id, channel) VALUES (?, ?, ?, ?, ?)

-- name: memory.scopes
SELECT stream, owner FROM memory_scopes

-- name: memory.by_id
SELECT i.stream, i.superseded_by, i.superseded_ms, i.seq, e.ts_ms, e.payload
FROM memory_items i JOIN events e USING (seq)
WHERE i.memory_id = ? AND i.dead IS NULL

-- name: memory.in_scope
SELECT i.stream, i.superseded_by, i.superseded_ms, i.seq, e.ts_ms, e.payload
FROM memory_items i INDEXED BY memory_in_order JOIN events e USING (seq)
WHERE i.stream = ? AND i.memory_id = ? AND i.dead IS NULL

-- name: memory.by_key
SELECT i.stream, i.superseded_by, i.superseded_ms, i.seq, e.ts_ms, e.payload
FROM memory_items i JOIN events e USING (seq)
WHERE i.stream = ? AND i.key = ? AND i.superseded_by IS NULL AND i.dead IS NULL

-- name: memory.by_seq
SELECT i.stream, i.superseded_by, i.superseded_ms, i.seq, e.ts_ms, e.payload
FROM memory_items i JOIN events e USING (seq)
WHERE i.seq = ? AND i.dead IS NULL

-- name: memory.by_seqs
SELECT i.stream, i.superseded_by, i.superseded_ms, i.seq, e.ts_ms, e.payload
FROM memory_items i JOIN events e USING (seq)
WHERE i.seq IN (SELECT value FROM json_each(?)) AND i.dead IS NULL

-- name: memory.page
SELECT i.stream, i.superseded_by, i.superseded_ms, i.seq, e.ts_ms, e.payload
FROM memory_items i JOIN events e USING (seq)
WHERE i.stream = ? AND i.memory_id > ? AND i.dead IS NULL AND i.superseded_by IS NULL
ORDER BY i.memory_id LIMIT ?

-- name: memory.page_of_tag
SELECT i.stream, i.superseded_by, i.superseded_ms, i.seq, e.ts_ms, e.payload
FROM memory_tags t CROSS JOIN memory_items i USING (seq) JOIN events e USING (seq)
WHERE t.stream IN (SELECT value FROM json_each(?)) AND t.tag = ? AND i.memory_id > ? AND i.dead IS NULL AND i.superseded_by IS NULL
ORDER BY i.memory_id LIMIT ?

-- name: memory.tag_count
SELECT count(*) FROM (
    SELECT 1 FROM memory_tags t WHERE t.stream IN (SELECT value FROM json_each(?)) AND t.tag = ? LIMIT ?
)

-- name: memory.page_of_all
SELECT i.stream, i.superseded_by, i.superseded_ms, i.seq, e.ts_ms, e.payload
FROM memory_items i JOIN events e USING (seq)
WHERE i.memory_id > ? AND i.dead IS NULL AND i.superseded_by IS NULL
ORDER BY i.memory_id LIMIT ?

-- name: memory.history
WITH RECURSIVE older (memory_id) AS (
    SELECT i.memory_id FROM memory_items i WHERE i.stream = :stream AND i.superseded_by = :memory_id
    UNION
    SELECT i.memory_id FROM older o JOIN memory_items i ON i.stream = :stream AND i.superseded_by = o.memory_id
)
SELECT memory_id FROM older LIMIT :rows

-- name: memory.selections
SELECT stream, seq, session_id, channel FROM memory_work WHERE selects = 1

-- name: memory.work_left
SELECT seq, stream, selects, session_id, channel, destroyed FROM memory_work ORDER BY seq

-- name: memory.work_did
UPDATE memory_work SET destroyed = destroyed + ? WHERE seq = ?

-- name: memory.work_done
DELETE FROM memory_work WHERE seq = ?

-- name: memory.count
SELECT count(*) FROM memory_items i WHERE i.stream = ?

-- name: memory.dead
SELECT i.seq, i.stream, e.payload FROM memory_items i INDEXED BY memory_dead JOIN events e USING (seq)
WHERE i.stream = ? AND i.dead IS NOT NULL AND i.seq > ? ORDER BY i.seq LIMIT ?

-- name: memory.of_all_before
SELECT i.seq, i.stream, e.payload FROM memory_items i JOIN events e USING (seq)
WHERE i.stream = ? AND i.seq < ? LIMIT ?

-- name: memory.of_session_before
SELECT i.seq, i.stream, e.payload FROM memory_items i JOIN events e USING (seq)
WHERE i.stream = ? AND i.session_id = ? AND i.seq < ? LIMIT ?

-- name: memory.of_channel_before
SELECT i.seq, i.stream, e.payload FROM memory_items i JOIN events e USING (seq)
WHERE i.stream = ? AND i.channel = ? AND i.seq < ? LIMIT ?

-- name: memory.scopes_of_session
-- Who kept something of it that is still to be removed: the scope and its owner. What somebody else kept
-- before the session was there is not of it.
SELECT m.stream, m.owner FROM memory_items i JOIN memory_scopes m ON m.stream = i.stream
JOIN streams t ON t.stream_id = i.session_id AND t.kind = 1 JOIN sessions e ON e.stream = t.stream
WHERE i.session_id = ? AND i.dead IS NULL AND (m.owner = e.owner OR i.created_ms >= e.created_ms)
      AND NOT EXISTS (SELECT 1 FROM memory_work w
                      WHERE w.selects = 1 AND w.stream = i.stream AND w.session_id = i.session_id AND w.seq > i.seq)
LIMIT 1

-- name: memory.left_behind
SELECT e.session_id FROM sessions e
WHERE e.status = 3 AND EXISTS (SELECT 1 FROM memory_items i JOIN memory_scopes m ON m.stream = i.stream
                               WHERE i.session_id = e.session_id AND i.dead IS NULL
                                     AND (m.owner = e.owner OR i.created_ms >= e.created_ms))
LIMIT ?

-- name: memory.left_behind_in
SELECT e.session_id FROM streams t JOIN sessions e ON e.stream = t.stream
WHERE t.stream_id = ? AND t.kind = 1 AND e.status = 3

-- name: memory.from_session
SELECT i.memory_id FROM memory_items i INDEXED BY memory_by_event JOIN events e ON e.event_id = i.from_event
WHERE i.stream = ?1 AND i.from_event IS NOT NULL AND i.dead IS NULL AND (e.stream = ?2 OR e.session_id = ?3)
LIMIT ?4

-- name: memory.scopes_from_session
SELECT m.stream, m.owner FROM memory_items i INDEXED BY memory_by_event
JOIN memory_scopes m ON m.stream = i.stream CROSS JOIN events e ON e.event_id = i.from_event
WHERE i.from_event IS NOT NULL AND i.dead IS NULL AND (e.stream = ?1 OR e.session_id = ?2)
LIMIT 1

-- name: memory.origin
-- The session that an event is of, or concerns; its own id is not beside it where it is the stream's.
SELECT s.session_id, s.owner FROM events e
JOIN streams t ON t.kind = 1 AND (t.stream = e.stream OR t.stream_id = e.session_id)
JOIN sessions s ON s.stream = t.stream
WHERE e.event_id = ?

-- name: memory.left_behind_from
-- Of erased sessions, those that an item came from: of so many items behind that one.
SELECT p.seq, s.session_id
FROM (SELECT i.seq, i.stream, i.from_event FROM memory_items i
      WHERE i.seq > ? AND i.from_event IS NOT NULL AND i.dead IS NULL
            AND EXISTS (SELECT 1 FROM sessions s WHERE s.status = 3)
      ORDER BY i.seq LIMIT ?) p
LEFT JOIN events e ON e.event_id = p.from_event
LEFT JOIN streams t ON t.kind = 1 AND (t.stream = e.stream OR t.stream_id = e.session_id)
LEFT JOIN sessions s ON s.stream = t.stream AND s.status = 3
ORDER BY p.seq

-- name: memory.unindex
INSERT INTO memory_texts (memory_texts, rowid, words) VALUES ('delete', ?, ?)

-- name: memory.secure
INSERT INTO memory_texts (memory_texts, rank) VALUES ('secure-delete', ?)

-- name: memory.merge
INSERT INTO memory_texts (memory_texts, rank) VALUES ('merge', ?)

-- name: memory.drop
DELETE FROM memory_items WHERE seq = ?

-- name: memory.drop_tag
DELETE FROM memory_tags WHERE stream = ? AND tag = ? AND seq = ?

-- name: memory.drop_vector
DELETE FROM memory_vectors WHERE seq = ?

-- name: memory.rub_out
UPDATE events SET payload_sha256 = ?, payload = NULL WHERE seq = ? AND payload IS NOT NULL

-- name: memory.model
SELECT model FROM memory_models WHERE provider = ? AND name = ? AND dimensions = ? AND version = ?

-- name: memory.add_model
INSERT INTO memory_models (model, provider, name, dimensions, version)
SELECT coalesce(max(m.model), 0) + 1, ?, ?, ?, ? FROM memory_models m WHERE true
ON CONFLICT DO NOTHING

-- name: memory.add_vector
INSERT INTO memory_vectors (seq, stream, model, vector)
SELECT i.seq, i.stream, m.model, ?
FROM memory_items i JOIN memory_models m ON m.provider = ? AND m.name = ? AND m.dimensions = ? AND m.version = ?
WHERE i.seq = ? AND i.dead IS NULL
ON CONFLICT (seq) DO UPDATE SET model = excluded.model, vector = excluded.vector

-- name: memory.shelf
SELECT group_concat(p.seq), group_concat(p.created_ms), group_concat(coalesce(p.superseded_ms, 4611686018427387904)),
       group_concat(coalesce(p.expires_ms, 4611686018427387904)), group_concat(p.source), group_concat(p.words),
       group_concat(hex(p.memory_id), ''), count(p.session_id), count(p.channel), min(p.seq), max(p.seq)
FROM (
    SELECT i.seq, i.created_ms, i.superseded_ms, i.expires_ms, i.source, i.words, i.memory_id, i.session_id, i.channel
    FROM memory_items i WHERE i.stream = ? AND i.seq > ? AND i.dead IS NULL ORDER BY i.seq LIMIT ?
) p

-- name: memory.shelf_names
SELECT seq, session_id, channel FROM memory_items
WHERE stream = ? AND seq >= ? AND seq <= ? AND dead IS NULL AND (session_id IS NOT NULL OR channel IS NOT NULL)

-- name: memory.shelf_vectors
SELECT seq, vector FROM memory_vectors WHERE seq >= ? AND seq <= ? AND stream = ? AND model = ? ORDER BY seq

-- name: memory.vectors
SELECT seq, vector FROM memory_vectors
WHERE seq IN (SELECT value FROM json_each(?)) AND stream = ? AND model = ?

-- name: memory.tagged
SELECT group_concat(seq) FROM (SELECT seq FROM memory_tags WHERE stream = ? AND tag = ? AND seq > ? ORDER BY seq)

-- name: memory.frequency
SELECT doc FROM memory_terms WHERE term = ?

-- name: memory.having
-- In the order of the index, which is that of the rows: asked to sort them, it would take a quarter longer.
SELECT group_concat(rowid) FROM memory_texts WHERE memory_texts MATCH ? AND rowid > ?

-- name: memory.newest_having
SELECT group_concat(rowid) FROM (
    SELECT rowid FROM memory_texts WHERE memory_texts MATCH ? ORDER BY rowid DESC LIMIT ?
)

-- name: memory.without_vector
SELECT i.seq, i.stream, v.seq FROM memory_items i LEFT JOIN memory_vectors v ON v.seq = i.seq AND v.model = ?
WHERE i.seq > ? AND i.dead IS NULL ORDER BY i.seq LIMIT ?

-- name: memory.without_vector_in
SELECT i.seq, i.stream, v.seq
FROM memory_items i INDEXED BY memory_in_scope LEFT JOIN memory_vectors v ON v.seq = i.seq AND v.model = ?
WHERE i.stream = ? AND i.seq > ? AND i.dead IS NULL ORDER BY i.seq LIMIT ?

-- name: memory.sizes
SELECT stream, count(*), sum(bytes), sum(superseded_by IS NOT NULL) FROM memory_items WHERE dead IS NULL GROUP BY stream

-- name: memory.sizes_of
SELECT stream, count(*), sum(bytes), sum(superseded_by IS NOT NULL) FROM memory_items
WHERE stream = ? AND dead IS NULL GROUP BY stream

-- name: memory.sizes_beside_work
SELECT i.stream, count(*), sum(i.bytes), sum(i.superseded_by IS NOT NULL) FROM memory_items i
WHERE i.dead IS NULL
      AND NOT EXISTS (SELECT 1 FROM memory_work w
                      WHERE w.selects = 1 AND w.stream = i.stream AND w.seq > i.seq
                            AND (w.session_id IS NULL OR w.session_id IS i.session_id)
                            AND (w.channel IS NULL OR w.channel IS i.channel))
GROUP BY i.stream

-- name: memory.vectors_beside_work
SELECT i.stream, count(*) FROM memory_items i JOIN memory_vectors v ON v.seq = i.seq AND v.model = ?
WHERE i.dead IS NULL
      AND NOT EXISTS (SELECT 1 FROM memory_work w
                      WHERE w.selects = 1 AND w.stream = i.stream AND w.seq > i.seq
                            AND (w.session_id IS NULL OR w.session_id IS i.session_id)
                            AND (w.channel IS NULL OR w.channel IS i.channel))
GROUP BY i.stream

-- name: memory.vectors_of
SELECT count(*) FROM memory_vectors WHERE model = ? AND stream = ?

-- name: memory.superseded
SELECT i.stream, i.memory_id, i.bytes, 1, i.created_ms, i.seq FROM memory_items i
WHERE i.stream = ? AND i.superseded_by IS NOT NULL AND i.dead IS NULL ORDER BY i.seq LIMIT ?

-- name: memory.due
SELECT i.stream, i.memory_id, i.bytes FROM memory_items i
WHERE i.stream = ? AND i.expires_ms IS NOT NULL AND i.expires_ms <= ? AND i.dead IS NULL
ORDER BY i.expires_ms LIMIT ?

-- name: memory.oldest
SELECT i.stream, i.memory_id, i.bytes, i.superseded_by IS NOT NULL, i.created_ms, i.seq FROM memory_items i
WHERE i.stream = ? AND i.dead IS NULL ORDER BY i.seq LIMIT ?

-- name: memory.told
UPDATE answers SET answer = ? WHERE event_id = (SELECT e.event_id FROM events e WHERE e.seq = ?) AND answer = ?

-- name: memory.upkeep
SELECT name, at_ms FROM memory_upkeep

-- name: memory.set_upkeep
INSERT INTO memory_upkeep (name, at_ms) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET at_ms = excluded.at_ms
