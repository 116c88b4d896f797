PRAGMA user_version = 20;

CREATE TABLE answers (
    event_id BLOB NOT NULL PRIMARY KEY,
    stream   INTEGER NOT NULL,
    digest   BLOB NOT NULL,
    answer   BLOB
) STRICT, WITHOUT ROWID;

CREATE TABLE approvals (
    approval_id  BLOB NOT NULL PRIMARY KEY,
    stream       INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    run_id       BLOB,
    subject_type TEXT NOT NULL,
    subject_id   TEXT NOT NULL,
    summary      TEXT NOT NULL,
    prompt       TEXT,
    policy       TEXT,
    requested_ms INTEGER NOT NULL,
    expires_ms   INTEGER,
    decision     TEXT,
    scope        TEXT,
    until_ms     INTEGER,
    reason       TEXT,
    decided_ms   INTEGER,
    decided_by   TEXT,
    standing     BLOB,
    decided_seq  INTEGER
, owner TEXT) STRICT, WITHOUT ROWID;

CREATE TABLE canvas_snapshots (
    stream     INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    stream_seq INTEGER NOT NULL,
    seq        INTEGER NOT NULL, bytes INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (stream, version)
) STRICT, WITHOUT ROWID;

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

CREATE TABLE cron_jobs (
    stream      INTEGER PRIMARY KEY,
    owner       TEXT NOT NULL,
    name        TEXT NOT NULL,
    settings    BLOB NOT NULL,
    enabled     INTEGER NOT NULL DEFAULT 0,
    anchor_ms   INTEGER NOT NULL DEFAULT 0,
    created_ms  INTEGER NOT NULL DEFAULT 0,
    updated_ms  INTEGER NOT NULL DEFAULT 0,
    next_ms     INTEGER,
    due_ms      INTEGER,
    last_ms     INTEGER NOT NULL DEFAULT -1,
    wake_ms     INTEGER,
    last_run_ms INTEGER,
    runs        INTEGER NOT NULL DEFAULT 0,
    fence       INTEGER NOT NULL DEFAULT 0,
    deleted     INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE cron_runs (
    stream         INTEGER NOT NULL,
    number         INTEGER NOT NULL,
    run_id         BLOB NOT NULL,
    attempt        INTEGER NOT NULL,
    status         INTEGER NOT NULL,
    reason         TEXT NOT NULL,
    missed         INTEGER NOT NULL,
    scheduled_ms   INTEGER NOT NULL,
    manual         INTEGER NOT NULL,
    started_ms     INTEGER,
    finished_ms    INTEGER,
    fence          INTEGER NOT NULL,
    lease_until_ms INTEGER,
    deadline_ms    INTEGER,
    error          BLOB,
    usage          BLOB,
    PRIMARY KEY (stream, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE erasures (
    seq    INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL
, floor INTEGER NOT NULL DEFAULT 0) STRICT;

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

CREATE TABLE gone (
    id     BLOB NOT NULL,
    kind   INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    place  INTEGER NOT NULL,
    PRIMARY KEY (id, kind, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE heads (
    stream     INTEGER PRIMARY KEY,
    stream_seq INTEGER NOT NULL,
    seq        INTEGER NOT NULL
) STRICT;

CREATE TABLE idle_answers (
    event_id BLOB NOT NULL PRIMARY KEY,
    stream   INTEGER NOT NULL,
    digest   BLOB NOT NULL,
    answer   BLOB
) STRICT, WITHOUT ROWID;

CREATE TABLE marks (
    stream INTEGER NOT NULL,
    mark   INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    PRIMARY KEY (stream, mark)
) STRICT, WITHOUT ROWID;

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

CREATE TABLE memory_models (
    model      INTEGER PRIMARY KEY,
    provider   TEXT NOT NULL,
    name       TEXT NOT NULL,
    dimensions INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    UNIQUE (provider, name, dimensions, version)
) STRICT;

CREATE TABLE memory_scopes (
    stream INTEGER PRIMARY KEY,
    owner  TEXT NOT NULL
) STRICT;

CREATE TABLE memory_tags (
    stream INTEGER NOT NULL,
    tag    TEXT NOT NULL,
    seq    INTEGER NOT NULL,
    PRIMARY KEY (stream, tag, seq)
) STRICT, WITHOUT ROWID;

CREATE VIRTUAL TABLE memory_terms USING fts5vocab ('memory_texts', 'row');

CREATE VIRTUAL TABLE memory_texts USING fts5 (words, content = '', columnsize = 0, detail = none, tokenize = 'ascii');

CREATE TABLE memory_upkeep (
    name  TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE memory_vectors (
    seq    INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    model  INTEGER NOT NULL,
    vector BLOB NOT NULL
) STRICT;

CREATE TABLE memory_work (
    seq        INTEGER PRIMARY KEY,
    stream     INTEGER NOT NULL,
    selects    INTEGER NOT NULL,
    session_id BLOB,
    channel    TEXT
, destroyed INTEGER NOT NULL DEFAULT 0) STRICT;

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
, entries INTEGER NOT NULL DEFAULT 0, open INTEGER NOT NULL DEFAULT 0, managed INTEGER NOT NULL DEFAULT 0, parent BLOB, reason TEXT, tokens_in INTEGER NOT NULL DEFAULT 0, tokens_out INTEGER NOT NULL DEFAULT 0, created_ms INTEGER NOT NULL DEFAULT 0, ended_ms INTEGER) STRICT, WITHOUT ROWID;

CREATE VIRTUAL TABLE session_texts USING fts5 (owner, words, prefix = '1 2 3');

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

CREATE TABLE streams (
    stream     INTEGER PRIMARY KEY,
    kind       INTEGER NOT NULL,
    stream_id  BLOB NOT NULL,
    principal  INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    UNIQUE (stream_id, kind)
) STRICT;

CREATE TABLE warm_heads (
    stream     INTEGER PRIMARY KEY,
    stream_seq INTEGER NOT NULL,
    seq        INTEGER NOT NULL
) STRICT;

CREATE INDEX answers_by_stream ON answers (stream);

CREATE UNIQUE INDEX approvals_by_seq ON approvals (seq);

CREATE INDEX approvals_by_subject ON approvals (stream, subject_type, subject_id, decided_seq);

CREATE INDEX approvals_due ON approvals (expires_ms) WHERE decision IS NULL AND expires_ms IS NOT NULL;

CREATE INDEX approvals_of_decision ON approvals (decision, seq);

CREATE INDEX approvals_of_owner ON approvals (owner, seq);

CREATE INDEX approvals_of_owner_decision ON approvals (owner, decision, seq);

CREATE INDEX approvals_of_owner_subject ON approvals (owner, subject_id, seq);

CREATE INDEX approvals_of_subject ON approvals (subject_id, seq);

CREATE INDEX canvases_by_session ON canvases (session_id, stream);

CREATE INDEX canvases_due ON canvases (expires_ms) WHERE closed = 0 AND expires_ms IS NOT NULL;

CREATE INDEX cron_jobs_by_owner ON cron_jobs (owner, stream) WHERE deleted = 0;

CREATE INDEX cron_jobs_by_wake ON cron_jobs (wake_ms) WHERE wake_ms IS NOT NULL;

CREATE UNIQUE INDEX cron_runs_by_id ON cron_runs (run_id);

CREATE UNIQUE INDEX cron_runs_once ON cron_runs (stream, scheduled_ms, attempt) WHERE manual = 0;

CREATE INDEX cron_runs_open ON cron_runs (stream) WHERE status IN (1, 2);

CREATE UNIQUE INDEX events_by_id ON events (event_id);

CREATE INDEX idle_answers_by_stream ON idle_answers (stream);

CREATE INDEX memory_by_channel ON memory_items (stream, channel) WHERE channel IS NOT NULL;

CREATE INDEX memory_by_event ON memory_items (stream, from_event) WHERE from_event IS NOT NULL;

CREATE INDEX memory_by_id ON memory_items (memory_id);

CREATE INDEX memory_by_key ON memory_items (stream, key);

CREATE INDEX memory_by_session ON memory_items (session_id, stream) WHERE session_id IS NOT NULL;

CREATE INDEX memory_by_successor ON memory_items (stream, superseded_by) WHERE superseded_by IS NOT NULL;

CREATE INDEX memory_dead ON memory_items (stream, seq) WHERE dead IS NOT NULL;

CREATE INDEX memory_due ON memory_items (stream, expires_ms) WHERE expires_ms IS NOT NULL AND dead IS NULL;

CREATE INDEX memory_in_order ON memory_items (stream, memory_id);

CREATE INDEX memory_in_scope ON memory_items (stream);

CREATE INDEX memory_vectors_by_model ON memory_vectors (model, stream);

CREATE INDEX runs_by_stream ON runs (stream, first);

CREATE INDEX runs_under_way ON runs (run_id) WHERE managed = 1 AND state IN (1, 5, 6);

CREATE UNIQUE INDEX sessions_by_key ON sessions (owner, session_key) WHERE session_key IS NOT NULL;

CREATE INDEX sessions_by_owner ON sessions (owner, stream);

CREATE INDEX sessions_by_owner_status ON sessions (owner, status, stream);

CREATE INDEX sessions_by_status ON sessions (status, stream);

CREATE TRIGGER approvals_decided BEFORE UPDATE OF decision ON approvals
WHEN OLD.decision IS NOT NULL
BEGIN
    SELECT raise(ABORT, 'an approval is decided once');
END;

CREATE TRIGGER approvals_once BEFORE INSERT ON approvals
WHEN EXISTS (SELECT 1 FROM approvals a WHERE a.approval_id = NEW.approval_id)
BEGIN
    SELECT raise(ABORT, 'an approval of this id is there already');
END;

CREATE TRIGGER idle_answers_new_id BEFORE INSERT ON idle_answers
WHEN EXISTS (SELECT 1 FROM events e WHERE e.event_id = NEW.event_id)
BEGIN
    SELECT raise(ABORT, 'an event has this id');
END;

CREATE TRIGGER runs_once BEFORE INSERT ON runs
WHEN EXISTS (SELECT 1 FROM runs r WHERE r.run_id = NEW.run_id)
BEGIN
    SELECT raise(ABORT, 'a run of this id is there already');
END;

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

CREATE VIEW ends AS
SELECT s.stream, coalesce(w.stream_seq, h.stream_seq) AS stream_seq, coalesce(w.seq, h.seq) AS seq
FROM streams s LEFT JOIN warm_heads w ON w.stream = s.stream LEFT JOIN heads h ON h.stream = s.stream;

CREATE VIEW gone_runs AS SELECT id, stream, place FROM gone WHERE kind = 1;
