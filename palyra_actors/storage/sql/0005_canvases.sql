-- Canvases, as their events make them. sha256: of the state's canonical JSON. history_bytes: what the events
-- since the horizon hold; horizon: the first version that can be read.
CREATE TABLE canvases (
    stream         INTEGER PRIMARY KEY,
    session_id     BLOB,
    owner          TEXT NOT NULL,
    version        INTEGER NOT NULL,
    sha256         BLOB NOT NULL,
    schema_version INTEGER NOT NULL,
    created_ms     INTEGER NOT NULL,
    updated_ms     INTEGER NOT NULL,
    expires_ms     INTEGER,
    history_bytes  INTEGER NOT NULL,
    horizon        INTEGER NOT NULL DEFAULT 1,
    closed         INTEGER NOT NULL DEFAULT 0,
    close_reason   TEXT
) STRICT;

CREATE INDEX canvases_due ON canvases (expires_ms) WHERE closed = 0 AND expires_ms IS NOT NULL;

-- Where a whole state is: the event of that seq, number stream_seq of its stream, says it. The patch to
-- version v + n is the n-th event behind it.
CREATE TABLE canvas_snapshots (
    stream     INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    stream_seq INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    PRIMARY KEY (stream, version)
) STRICT, WITHOUT ROWID;
