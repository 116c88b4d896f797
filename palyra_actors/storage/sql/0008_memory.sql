-- Memories. A row of memory_items is there as long as the payload of event seq, in which its text is.
CREATE TABLE memory_scopes (
    stream INTEGER PRIMARY KEY,
    owner  TEXT NOT NULL
) STRICT;

-- key: of content, channel and session; bytes, words: of the content. superseded_ms: when superseded_by
-- took its place. dead: the event that removed it; what is left is to be destroyed.
CREATE TABLE memory_items (
    seq           INTEGER PRIMARY KEY,
    stream        INTEGER NOT NULL,
    memory_id     BLOB NOT NULL,
    key           BLOB NOT NULL,
    session_id    BLOB,
    channel       TEXT,
    source        INTEGER NOT NULL,
    created_ms    INTEGER NOT NULL,
    expires_ms    INTEGER,
    from_event    BLOB,
    bytes         INTEGER NOT NULL,
    words         INTEGER NOT NULL,
    superseded_by BLOB,
    superseded_ms INTEGER,
    dead          INTEGER
) STRICT;

CREATE INDEX memory_by_id ON memory_items (memory_id);
CREATE INDEX memory_by_key ON memory_items (stream, key);
CREATE INDEX memory_in_order ON memory_items (stream, memory_id);
CREATE INDEX memory_by_session ON memory_items (stream, session_id) WHERE session_id IS NOT NULL;
CREATE INDEX memory_by_channel ON memory_items (stream, channel) WHERE channel IS NOT NULL;
CREATE INDEX memory_by_event ON memory_items (stream, from_event) WHERE from_event IS NOT NULL;
CREATE INDEX memory_by_successor ON memory_items (stream, superseded_by) WHERE superseded_by IS NOT NULL;
CREATE INDEX memory_due ON memory_items (expires_ms) WHERE expires_ms IS NOT NULL AND dead IS NULL;
CREATE INDEX memory_dead ON memory_items (stream, seq) WHERE dead IS NOT NULL;

CREATE TABLE memory_tags (
    stream INTEGER NOT NULL,
    tag    TEXT NOT NULL,
    seq    INTEGER NOT NULL,
    PRIMARY KEY (stream, tag, seq)
) STRICT, WITHOUT ROWID;

-- Every word of a text as digits that say its scope and the digest of its stem; no text, no positions.
CREATE VIRTUAL TABLE memory_texts USING fts5 (words, content = '', columnsize = 0, detail = none, tokenize = 'ascii');
CREATE VIRTUAL TABLE memory_terms USING fts5vocab ('memory_texts', 'row');

-- Who made vectors, and how: what two of them are compared by is the same for one model only.
CREATE TABLE memory_models (
    model      INTEGER PRIMARY KEY,
    provider   TEXT NOT NULL,
    name       TEXT NOT NULL,
    dimensions INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    UNIQUE (provider, name, dimensions, version)
) STRICT;

-- vector: float32, little-endian, of length 1.
CREATE TABLE memory_vectors (
    seq    INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    model  INTEGER NOT NULL,
    vector BLOB NOT NULL
) STRICT;

CREATE INDEX memory_vectors_by_model ON memory_vectors (model, stream);

-- What is still to be destroyed since event seq: all that is dead in the stream, and if selects is 1, all
-- before it of the session, of the channel, or (both NULL) whatever there is. 2: nobody waits for it.
CREATE TABLE memory_work (
    seq        INTEGER PRIMARY KEY,
    stream     INTEGER NOT NULL,
    selects    INTEGER NOT NULL,
    session_id BLOB,
    channel    TEXT
) STRICT;

CREATE TABLE memory_upkeep (
    name  TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
