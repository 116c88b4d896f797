-- What a request with an event_id of its client's was answered, for whoever sends it again. digest: of
-- operation, principal and content, without secrets. stream: whose answer it is; answer: NULL once that is erased.
CREATE TABLE answers (
    event_id BLOB NOT NULL PRIMARY KEY,
    stream   INTEGER NOT NULL,
    digest   BLOB NOT NULL,
    answer   BLOB
) STRICT, WITHOUT ROWID;

CREATE INDEX answers_by_stream ON answers (stream);
