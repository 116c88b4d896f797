-- The heads of streams that are written lately lie close together, and go to their place among all others when others
-- have been written since: an append to a stream that lies anywhere in a large file changes no page of its own for it.
CREATE TABLE warm_heads (
    stream     INTEGER PRIMARY KEY,
    stream_seq INTEGER NOT NULL,
    seq        INTEGER NOT NULL
) STRICT;

-- The last event of every stream.
CREATE VIEW ends AS
SELECT s.stream, coalesce(w.stream_seq, h.stream_seq) AS stream_seq, coalesce(w.seq, h.seq) AS seq
FROM streams s LEFT JOIN warm_heads w ON w.stream = s.stream LEFT JOIN heads h ON h.stream = s.stream;
