-- What a request that changed nothing was answered: no event bears its id, so the id is kept here alone. One
-- namespace with the events' ids: this side of it is held by the trigger, the events' by `answer.clash`, which
-- looks at a group's events only where there is a row here at all. stream: whose answer it is, 0 where that has no
-- event; answer: NULL once that is erased.
CREATE TABLE idle_answers (
    event_id BLOB NOT NULL PRIMARY KEY,
    stream   INTEGER NOT NULL,
    digest   BLOB NOT NULL,
    answer   BLOB
) STRICT, WITHOUT ROWID;

CREATE INDEX idle_answers_by_stream ON idle_answers (stream);

CREATE TRIGGER idle_answers_new_id BEFORE INSERT ON idle_answers
WHEN EXISTS (SELECT 1 FROM events e WHERE e.event_id = NEW.event_id)
BEGIN
    SELECT raise(ABORT, 'an event has this id');
END;
