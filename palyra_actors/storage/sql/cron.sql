-- name: cron.insert
INSERT INTO cron_jobs (stream, owner, name, settings) VALUES (?, ?, ?, ?)

-- name: cron.restate
UPDATE cron_jobs SET name = ?, settings = ? WHERE stream = ?

-- name: cron.save
UPDATE cron_jobs SET enabled = ?, anchor_ms = ?, created_ms = ?, updated_ms = ?, next_ms = ?, due_ms = ?, last_ms = ?,
                     wake_ms = ?, last_run_ms = ?, runs = ?, fence = ?, deleted = ?
WHERE stream = ?

-- name: cron.put_run
INSERT INTO cron_runs (stream, number, run_id, attempt, status, reason, missed, scheduled_ms, manual, started_ms,
                       finished_ms, fence, lease_until_ms, deadline_ms, error, usage)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (stream, number) DO UPDATE
SET status = excluded.status, reason = excluded.reason, started_ms = excluded.started_ms,
    finished_ms = excluded.finished_ms, fence = excluded.fence, lease_until_ms = excluded.lease_until_ms,
    deadline_ms = excluded.deadline_ms, error = excluded.error, usage = excluded.usage

-- name: cron.row
SELECT settings, enabled, anchor_ms, created_ms, updated_ms, next_ms, due_ms, last_ms, last_run_ms, runs, fence, deleted
FROM cron_jobs WHERE stream = ?

-- name: cron.page
SELECT j.settings, j.enabled, j.anchor_ms, j.created_ms, j.updated_ms, j.next_ms, j.due_ms, j.last_ms, j.last_run_ms,
       j.runs, j.fence, j.deleted, s.stream_id, j.owner
FROM cron_jobs j JOIN streams s USING (stream)
WHERE j.deleted = 0 AND j.stream > :after AND (:enabled IS NULL OR j.enabled = :enabled)
ORDER BY j.stream LIMIT :limit

-- name: cron.page_of_owner
SELECT j.settings, j.enabled, j.anchor_ms, j.created_ms, j.updated_ms, j.next_ms, j.due_ms, j.last_ms, j.last_run_ms,
       j.runs, j.fence, j.deleted, s.stream_id, j.owner
FROM cron_jobs j JOIN streams s USING (stream)
WHERE j.deleted = 0 AND j.owner = :owner AND j.stream > :after AND (:enabled IS NULL OR j.enabled = :enabled)
ORDER BY j.stream LIMIT :limit

-- name: cron.open_runs
SELECT number, run_id, attempt, status, reason, missed, scheduled_ms, manual, started_ms, finished_ms, fence,
       lease_until_ms, deadline_ms, error, usage
FROM cron_runs INDEXED BY cron_runs_open WHERE stream = ? AND status IN (1, 2)

-- name: cron.runs
SELECT number, run_id, attempt, status, reason, missed, scheduled_ms, manual, started_ms, finished_ms, fence,
       lease_until_ms, deadline_ms, error, usage
FROM cron_runs WHERE stream = :stream AND number < :before AND (:status IS NULL OR status = :status)
ORDER BY number DESC LIMIT :limit

-- name: cron.run
SELECT r.stream, r.number, s.stream_id, j.owner
FROM cron_runs r JOIN streams s USING (stream) JOIN cron_jobs j USING (stream)
WHERE r.run_id = ?

-- name: cron.due
-- With what an entity wakes from (settings NULL: it reads that itself), up to the runs that are under way.
SELECT j.wake_ms, j.stream, s.stream_id, j.owner, j.name, s.created_ms, h.stream_seq, h.seq,
       CASE WHEN length(j.settings) <= 2048
                 AND NOT EXISTS (SELECT 1 FROM cron_runs r INDEXED BY cron_runs_open
                                 WHERE r.stream = j.stream AND r.status IN (1, 2))
            THEN j.settings END,
       j.enabled, j.anchor_ms, j.created_ms, j.updated_ms, j.next_ms, j.due_ms, j.last_ms, j.last_run_ms, j.runs,
       j.fence, j.deleted
FROM cron_jobs j JOIN streams s USING (stream) JOIN ends h USING (stream)
WHERE j.wake_ms IS NOT NULL AND (j.wake_ms, j.stream) > (:wake, :stream) AND j.wake_ms <= :target
ORDER BY j.wake_ms, j.stream LIMIT :limit

-- name: cron.untaken
SELECT r.run_id, s.stream_id, j.owner, j.name
FROM cron_runs r JOIN streams s USING (stream) JOIN cron_jobs j USING (stream)
WHERE r.status IN (1, 2) AND r.status = 2 AND r.fence = 0
