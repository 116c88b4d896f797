-- Sessions and runs with all that is shown of them. Both follow from the events: `rebuild` makes them anew.

-- status: 1 open, 2 archived, 3 erased. parent, at_seq: of which session, up to which session_seq it is a
-- branch; depth: how many such steps lead to one that is none. owner: the principal's name.
CREATE TABLE sessions (
    stream      INTEGER PRIMARY KEY,
    session_id  BLOB NOT NULL,
    owner       TEXT NOT NULL,
    session_key TEXT,
    title       TEXT,
    status      INTEGER NOT NULL,
    parent      BLOB,
    at_seq      INTEGER,
    depth       INTEGER NOT NULL,
    created_ms  INTEGER NOT NULL,
    runs        INTEGER NOT NULL,
    last_run    BLOB,
    tokens_in   INTEGER NOT NULL,
    tokens_out  INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX sessions_by_key ON sessions (owner, session_key) WHERE session_key IS NOT NULL;
CREATE INDEX sessions_by_owner ON sessions (owner, stream);
CREATE INDEX sessions_by_owner_status ON sessions (owner, status, stream);
CREATE INDEX sessions_by_status ON sessions (status, stream);

-- Words of key and title, found by their beginnings. owner is one word: a search stays within it.
CREATE VIRTUAL TABLE session_texts USING fts5 (owner, words, prefix = '1 2 3');
INSERT INTO session_texts (session_texts, rank) VALUES ('secure-delete', 1);

-- entries: of its tape; open: the last of them takes further tokens; managed: begun by run.start.
ALTER TABLE runs ADD COLUMN entries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN open INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN managed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN parent BLOB;
ALTER TABLE runs ADD COLUMN reason TEXT;
ALTER TABLE runs ADD COLUMN tokens_in INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN tokens_out INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN created_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN ended_ms INTEGER;

CREATE INDEX runs_by_stream ON runs (stream, first);
CREATE INDEX runs_under_way ON runs (run_id) WHERE managed = 1 AND state IN (1, 5, 6);

-- The state machine at rest (domain/run.py has the same table). accepted to done is one event's way through
-- in_progress.
CREATE TRIGGER runs_step BEFORE UPDATE OF state ON runs
WHEN NOT (
    NEW.state = OLD.state
    OR (OLD.state = 5 AND NEW.state = 6)
    OR (OLD.state = 6 AND NEW.state IN (1, 2, 3, 4))
    OR (OLD.state = 1 AND NEW.state IN (2, 3, 4))
)
BEGIN
    SELECT raise(ABORT, 'a run has no such step');
END;

-- What is still to be destroyed: the payloads of a stream's events before seq. Not of the state: work to do.
CREATE TABLE erasures (
    seq    INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL
) STRICT;

INSERT INTO sessions (stream, session_id, owner, session_key, title, status, parent, at_seq, depth,
                      created_ms, runs, last_run, tokens_in, tokens_out)
SELECT s.stream, s.stream_id, p.name, NULL, NULL, 1, NULL, NULL, 0, s.created_ms,
       (SELECT count(*) FROM runs r WHERE r.stream = s.stream),
       (SELECT r.run_id FROM runs r WHERE r.stream = s.stream ORDER BY r.first DESC LIMIT 1), 0, 0
FROM streams s JOIN principals p USING (principal)
WHERE s.kind = 1;
