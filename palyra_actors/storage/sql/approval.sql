-- name: approval.insert
INSERT INTO approvals (approval_id, stream, seq, run_id, subject_type, subject_id, summary, prompt, policy,
                       requested_ms, expires_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: approval.decide
UPDATE approvals SET decision = ?, scope = ?, until_ms = ?, reason = ?, decided_ms = ?, decided_by = ?, standing = ?,
                     decided_seq = ?
WHERE approval_id = ?

-- name: approval.forget
DELETE FROM approvals WHERE stream = ?

-- name: approval.find
SELECT a.run_id, a.subject_type, a.subject_id, a.summary, a.prompt, a.policy, a.requested_ms, a.expires_ms,
       a.decision, a.scope, a.until_ms, a.reason, a.decided_ms, a.decided_by, a.standing,
       a.approval_id, s.session_id, s.owner, a.stream, a.seq, a.decided_seq
FROM approvals a JOIN sessions s USING (stream)
WHERE a.approval_id = ?

-- name: approval.standing
SELECT a.run_id, a.subject_type, a.subject_id, a.summary, a.prompt, a.policy, a.requested_ms, a.expires_ms,
       a.decision, a.scope, a.until_ms, a.reason, a.decided_ms, a.decided_by, a.standing, a.approval_id
FROM approvals a
WHERE a.stream = ? AND a.subject_type = ? AND a.subject_id = ? AND a.decided_seq IS NOT NULL
      AND a.decision IN ('allow', 'deny') AND a.scope IN ('session', 'timeboxed') AND a.standing IS NULL
ORDER BY a.decided_seq DESC LIMIT 1

-- name: approval.due
SELECT a.approval_id, s.session_id, s.owner, a.expires_ms
FROM approvals a JOIN sessions s USING (stream)
WHERE a.decision IS NULL AND a.expires_ms IS NOT NULL AND a.expires_ms <= ?
ORDER BY a.expires_ms LIMIT ?

-- name: approval.page
SELECT a.run_id, a.subject_type, a.subject_id, a.summary, a.prompt, a.policy, a.requested_ms, a.expires_ms,
       a.decision, a.scope, a.until_ms, a.reason, a.decided_ms, a.decided_by, a.standing,
       a.approval_id, s.session_id, s.owner, a.stream, a.seq, a.decided_seq
FROM approvals a JOIN sessions s USING (stream)
WHERE a.seq > :after AND a.seq <= :through
      AND (:owner IS NULL OR s.owner = :owner)
      AND (:subject_type IS NULL OR a.subject_type = :subject_type)
      AND (:subject_id IS NULL OR a.subject_id = :subject_id)
      AND (:since_ms IS NULL OR a.requested_ms >= :since_ms)
      AND (:until_ms IS NULL OR a.requested_ms <= :until_ms)
      AND (:decision IS NULL
           OR :decision = CASE WHEN a.decided_seq IS NULL OR a.decided_seq > :through THEN 'pending' ELSE a.decision END)
ORDER BY a.seq LIMIT :limit

-- name: approval.count
SELECT count(*) FROM approvals a JOIN sessions s USING (stream)
WHERE a.seq <= :through AND (:owner IS NULL OR s.owner = :owner)
