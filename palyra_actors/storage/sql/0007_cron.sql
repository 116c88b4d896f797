-- Jobs and their runs, as their events make them. settings: what the client said (MessagePack). next_ms: the next
-- instant; due_ms: when its tick is due; last_ms: the last instant that had one; wake_ms: when anything is due.
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

CREATE INDEX cron_jobs_by_wake ON cron_jobs (wake_ms) WHERE wake_ms IS NOT NULL;
CREATE INDEX cron_jobs_by_owner ON cron_jobs (owner, stream) WHERE deleted = 0;

-- number: of the job's runs, from 1. status: 1 queued, 2 running, 3 succeeded, 4 failed, 5 skipped, 6 cancelled.
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

CREATE UNIQUE INDEX cron_runs_by_id ON cron_runs (run_id);
CREATE INDEX cron_runs_open ON cron_runs (stream) WHERE status IN (1, 2);

-- One tick, one start, at rest: whoever would begin an instant's attempt a second time, contradicts this.
CREATE UNIQUE INDEX cron_runs_once ON cron_runs (stream, scheduled_ms, attempt) WHERE manual = 0;
