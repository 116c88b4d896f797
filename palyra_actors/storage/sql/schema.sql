PRAGMA user_version = 2;

CREATE TABLE answers (
    event_id BLOB NOT NULL PRIMARY KEY,
    stream   INTEGER NOT NULL,
    digest   BLOB NOT NULL,
    answer   BLOB
) STRICT, WITHOUT ROWID;

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

CREATE TABLE heads (
    stream     INTEGER PRIMARY KEY,
    stream_seq INTEGER NOT NULL,
    seq        INTEGER NOT NULL
) STRICT;

CREATE TABLE marks (
    stream INTEGER NOT NULL,
    mark   INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    PRIMARY KEY (stream, mark)
) STRICT, WITHOUT ROWID;

CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value ANY
) STRICT, WITHOUT ROWID;

CREATE TABLE principals (
    principal INTEGER PRIMARY KEY,
    name      TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE runs (
    run_id BLOB NOT NULL PRIMARY KEY,
    stream INTEGER NOT NULL,
    state  INTEGER NOT NULL,
    first  INTEGER NOT NULL,
    last   INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE streams (
    stream     INTEGER PRIMARY KEY,
    kind       INTEGER NOT NULL,
    stream_id  BLOB NOT NULL,
    principal  INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    UNIQUE (stream_id, kind)
) STRICT;

CREATE INDEX answers_by_stream ON answers (stream);

CREATE UNIQUE INDEX events_by_id ON events (event_id);
