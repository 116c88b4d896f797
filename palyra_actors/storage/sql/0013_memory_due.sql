-- What is over is looked for in one scope: how much is over in others takes no time then.
DROP INDEX memory_due;
CREATE INDEX memory_due ON memory_items (stream, expires_ms) WHERE expires_ms IS NOT NULL AND dead IS NULL;
