-- The canvases that came from a session go when it is erased.
CREATE INDEX canvases_by_session ON canvases (session_id, stream);
