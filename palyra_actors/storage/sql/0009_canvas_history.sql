-- bytes: what the events between the horizon and this whole state hold.
ALTER TABLE canvas_snapshots ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;

-- floor: what lies before it was destroyed before.
ALTER TABLE erasures ADD COLUMN floor INTEGER NOT NULL DEFAULT 0;
