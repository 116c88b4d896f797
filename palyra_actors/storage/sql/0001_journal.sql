-- The journal and what hangs on it. Every number here is given by the writer, none by SQLite.

CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value ANY
) STRICT, WITHOUT ROWID;

-- Who wrote. A handful of rows; events name them by number.
CREATE TABLE principals (
    principal INTEGER PRIMARY KEY,
    name      TEXT NOT NULL UNIQUE
) STRICT;

-- An entity's identity: what never changes about it. kind: 1 session, 2 canvas, 3 cron, 4 memory, 5 system.
CREATE TABLE streams (
    stream     INTEGER PRIMARY KEY,
    kind       INTEGER NOT NULL,
    stream_id  BLOB NOT NULL,
    principal  INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    UNIQUE (stream_id, kind)
) STRICT;

-- Where each stream ends. Apart from streams and narrow, because it changes with every group:
-- three hundred heads a page instead of forty.
CREATE TABLE heads (
    stream     INTEGER PRIMARY KEY,
    stream_seq INTEGER NOT NULL,
    seq        INTEGER NOT NULL
) STRICT;

-- The log itself. kind and actor are catalogue numbers (kind is the name itself for x.… kinds).
-- link: how far back the stream's previous event is (seq - its seq); 0 for the first. Together with
-- marks it takes the place of an index on (stream, stream_seq), which would cost a third of the
-- write rate (bench/bench_schema.py).
-- session_id: only where it is not the stream's own id. payload_sha256: only once payload is erased.
CREATE TABLE events (
    seq            INTEGER PRIMARY KEY,
    event_id       BLOB NOT NULL,
    stream         INTEGER NOT NULL,
    stream_seq     INTEGER NOT NULL,
    link           INTEGER NOT NULL,
    session_id     BLOB,
    run_id         BLOB,
    kind           ANY NOT NULL,
    actor          INTEGER NOT NULL,
    principal      INTEGER NOT NULL,
    ts_ms          INTEGER NOT NULL,
    recorded_ms    INTEGER NOT NULL,
    redacted       INTEGER NOT NULL,
    traceparent    TEXT,
    payload        BLOB,
    payload_sha256 BLOB,
    hash           BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX events_by_id ON events (event_id);

-- Every 64th event of a stream: mark = stream_seq / 64. A page of a stream is found here and walked by link.
CREATE TABLE marks (
    stream INTEGER NOT NULL,
    mark   INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    PRIMARY KEY (stream, mark)
) STRICT, WITHOUT ROWID;

-- A run and the stream it lives in, from its first event on. state: 1 in_progress, 2 done, 3 failed,
-- 4 cancelled, 5 pending, 6 accepted. first/last: stream_seq of its first and its ending event (or NULL).
CREATE TABLE runs (
    run_id BLOB NOT NULL PRIMARY KEY,
    stream INTEGER NOT NULL,
    state  INTEGER NOT NULL,
    first  INTEGER NOT NULL,
    last   INTEGER
) STRICT, WITHOUT ROWID;
