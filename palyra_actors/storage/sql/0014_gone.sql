-- What went with an erased session: its runs (kind 1), approvals (2) and memories (3). Their ids stay taken and are
-- answered `gone` to whoever owned them. stream: where it lived, which says whose it was; place: where a list that
-- had come to it goes on (a run's first event in its stream, the seq of an approval's request or a memory's event).
CREATE TABLE gone (
    id     BLOB NOT NULL,
    kind   INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    place  INTEGER NOT NULL,
    PRIMARY KEY (id, kind, stream)
) STRICT, WITHOUT ROWID;

-- Events keep the ids of their runs, so these follow from the journal; the others' ids were erased with what said them.
CREATE VIEW gone_runs AS SELECT id, stream, place FROM gone WHERE kind = 1;

INSERT INTO gone (id, kind, stream, place)
SELECT e.run_id, 1, e.stream, min(e.stream_seq)
FROM sessions s CROSS JOIN events e ON e.stream = s.stream
WHERE s.status = 3 AND e.run_id IS NOT NULL AND (typeof(e.kind) = 'text' OR e.kind < 100 OR e.kind = 120)
GROUP BY e.run_id, e.stream;
