-- A scope's items in the order in which they came: seq, the rowid, is the last part of every index.
CREATE INDEX memory_in_scope ON memory_items (stream);
