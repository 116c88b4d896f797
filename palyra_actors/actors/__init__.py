"""One file an actor, read like its life, and what travels between them (`work`).

    door ─▶ desk ─▶ directory ─▶ entities (session …) ─▶ writer ─▶ committer's thread
                └─▶ readers                                └─▶ feed, latency

Door, desk, directory, entities, writer and feed share one loop thread; readers have a pool.
"""
