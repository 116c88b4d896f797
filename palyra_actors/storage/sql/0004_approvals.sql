-- Approvals, as their events in their sessions' streams make them. seq, decided_seq: of the events that requested
-- and decided it. prompt, policy: canonical JSON. until_ms: how long the decision answers further requests.
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
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX approvals_by_seq ON approvals (seq);
CREATE INDEX approvals_by_subject ON approvals (stream, subject_type, subject_id, decided_seq);
CREATE INDEX approvals_due ON approvals (expires_ms) WHERE decision IS NULL AND expires_ms IS NOT NULL;

-- A decision is made once.
CREATE TRIGGER approvals_decided BEFORE UPDATE OF decision ON approvals
WHEN OLD.decision IS NOT NULL
BEGIN
    SELECT raise(ABORT, 'an approval is decided once');
END;
