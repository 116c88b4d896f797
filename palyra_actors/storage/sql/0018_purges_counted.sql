-- How many items a purge has destroyed: what it is answered with counts those before a crash, too.
ALTER TABLE memory_work ADD COLUMN destroyed INTEGER NOT NULL DEFAULT 0;
