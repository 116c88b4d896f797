-- A run and an approval come into being once: a row that is put in the place of another would skip what the other
-- triggers hold the steps of.
CREATE TRIGGER runs_once BEFORE INSERT ON runs
WHEN EXISTS (SELECT 1 FROM runs r WHERE r.run_id = NEW.run_id)
BEGIN
    SELECT raise(ABORT, 'a run of this id is there already');
END;

CREATE TRIGGER approvals_once BEFORE INSERT ON approvals
WHEN EXISTS (SELECT 1 FROM approvals a WHERE a.approval_id = NEW.approval_id)
BEGIN
    SELECT raise(ABORT, 'an approval of this id is there already');
END;

-- Who kept something of a session is found by the session: admins do so of others' sessions, too.
DROP INDEX memory_by_session;
CREATE INDEX memory_by_session ON memory_items (session_id, stream) WHERE session_id IS NOT NULL;
