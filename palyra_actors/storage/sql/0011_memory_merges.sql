-- The index is merged a little with every group, and not by FTS5, which does much of it at once.
INSERT INTO memory_texts (memory_texts, rank) VALUES ('automerge', 0);
INSERT INTO memory_texts (memory_texts, rank) VALUES ('crisismerge', 64);
