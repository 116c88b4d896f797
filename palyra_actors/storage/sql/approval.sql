-- name: approval.insert
INSERT INTO approvals (approval_id, stream, seq, run_id, subject_type, subject_id, summary, prompt, policy,
                       requested_ms, expires_ms, owner)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11,
        (SELECT p.name FROM streams s JOIN principals p USING (principal) WHERE s.stream = ?2))

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
       a.approval_id, s.session_id, a.owner, a.stream, a.seq, a.decided_seq
FROM approvals a INDEXED BY approvals_by_seq JOIN sessions s USING (stream)
WHERE a.seq > :after AND a.seq <= :through
      AND (:subject_type IS NULL OR a.subject_type = :subject_type)
      AND (:since_ms IS NULL OR a.requested_ms >= :since_ms)
      AND (:until_ms IS NULL OR a.requested_ms <= :until_ms)
      AND (:subject_id IS NULL OR a.subject_id = :subject_id)
      AND (:decision IS NULL
           OR :decision = CASE WHEN a.decided_seq IS NULL OR a.decided_seq > :through THEN 'pending' ELSE a.decision END)
ORDER BY a.seq LIMIT :limit

-- name: approval.page_by_subject
SELECT a.run_id, a.subject_type, a.subject_id, a.summary, a.prompt, a.policy, a.requested_ms, a.expires_ms,
       a.decision, a.scope, a.until_ms, a.reason, a.decided_ms, a.decided_by, a.standing,
       a.approval_id, s.session_id, a.owner, a.stream, a.seq, a.decided_seq
FROM approvals a INDEXED BY approvals_of_subject JOIN sessions s USING (stream)
WHERE a.subject_id = :subject_id AND a.seq > :after AND a.seq <= :through
      AND (:subject_type IS NULL OR a.subject_type = :subject_type)
      AND (:since_ms IS NULL OR a.requested_ms >= :since_ms)
      AND (:until_ms IS NULL OR a.requested_ms <= :until_ms)
      AND (:decision IS NULL
           OR :decision = CASE WHEN a.decided_seq IS NULL OR a.decided_seq > :through THEN 'pending' ELSE a.decision END)
ORDER BY a.seq LIMIT :limit

-- name: approval.page_by_decision
-- stored: the decision, NULL while there is none.
SELECT a.run_id, a.subject_type, a.subject_id, a.summary, a.prompt, a.policy, a.requested_ms, a.expires_ms,
       a.decision, a.scope, a.until_ms, a.reason, a.decided_ms, a.decided_by, a.standing,
       a.approval_id, s.session_id, a.owner, a.stream, a.seq, a.decided_seq
FROM approvals a INDEXED BY approvals_of_decision JOIN sessions s USING (stream)
WHERE a.decision IS :stored AND a.seq > :after AND a.seq <= :through
      AND (:subject_type IS NULL OR a.subject_type = :subject_type)
      AND (:since_ms IS NULL OR a.requested_ms >= :since_ms)
      AND (:until_ms IS NULL OR a.requested_ms <= :until_ms)
      AND (:subject_id IS NULL OR a.subject_id = :subject_id)
ORDER BY a.seq LIMIT :limit

-- name: approval.page_of_owner
SELECT a.run_id, a.subject_type, a.subject_id, a.summary, a.prompt, a.policy, a.requested_ms, a.expires_ms,
       a.decision, a.scope, a.until_ms, a.reason, a.decided_ms, a.decided_by, a.standing,
       a.approval_id, s.session_id, a.owner, a.stream, a.seq, a.decided_seq
FROM approvals a INDEXED BY approvals_of_owner JOIN sessions s USING (stream)
WHERE a.owner = :owner AND a.seq > :after AND a.seq <= :through
      AND (:subject_type IS NULL OR a.subject_type = :subject_type)
      AND (:since_ms IS NULL OR a.requested_ms >= :since_ms)
      AND (:until_ms IS NULL OR a.requested_ms <= :until_ms)
      AND (:subject_id IS NULL OR a.subject_id = :subject_id)
      AND (:decision IS NULL
           OR :decision = CASE WHEN a.decided_seq IS NULL OR a.decided_seq > :through THEN 'pending' ELSE a.decision END)
ORDER BY a.seq LIMIT :limit

-- name: approval.page_of_owner_by_subject
SELECT a.run_id, a.subject_type, a.subject_id, a.summary, a.prompt, a.policy, a.requested_ms, a.expires_ms,
       a.decision, a.scope, a.until_ms, a.reason, a.decided_ms, a.decided_by, a.standing,
       a.approval_id, s.session_id, a.owner, a.stream, a.seq, a.decided_seq
FROM approvals a INDEXED BY approvals_of_owner_subject JOIN sessions s USING (stream)
WHERE a.owner = :owner AND a.subject_id = :subject_id AND a.seq > :after AND a.seq <= :through
      AND (:subject_type IS NULL OR a.subject_type = :subject_type)
      AND (:since_ms IS NULL OR a.requested_ms >= :since_ms)
      AND (:until_ms IS NULL OR a.requested_ms <= :until_ms)
      AND (:decision IS NULL
           OR :decision = CASE WHEN a.decided_seq IS NULL OR a.decided_seq > :through THEN 'pending' ELSE a.decision END)
ORDER BY a.seq LIMIT :limit

-- name: approval.page_of_owner_by_decision
SELECT a.run_id, a.subject_type, a.subject_id, a.summary, a.prompt, a.policy, a.requested_ms, a.expires_ms,
       a.decision, a.scope, a.until_ms, a.reason, a.decided_ms, a.decided_by, a.standing,
       a.approval_id, s.session_id, a.owner, a.stream, a.seq, a.decided_seq
FROM approvals a INDEXED BY approvals_of_owner_decision JOIN sessions s USING (stream)
WHERE a.owner = :owner AND a.decision IS :stored AND a.seq > :after AND a.seq <= :through
      AND (:subject_type IS NULL OR a.subject_type = :subject_type)
      AND (:since_ms IS NULL OR a.requested_ms >= :since_ms)
      AND (:until_ms IS NULL OR a.requested_ms <= :until_ms)
      AND (:subject_id IS NULL OR a.subject_id = :subject_id)
ORDER BY a.seq LIMIT :limit

-- name: approval.count
SELECT count(*) FROM approvals a INDEXED BY approvals_by_seq WHERE a.seq <= :through

-- name: approval.count_of_owner
SELECT count(*) FROM approvals a INDEXED BY approvals_of_owner WHERE a.owner = :owner AND a.seq <= :through
