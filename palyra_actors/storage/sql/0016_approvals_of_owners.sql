-- Whose session it is asked in, so that a page of somebody's approvals, of one subject or one decision, looks at no others.
ALTER TABLE approvals ADD COLUMN owner TEXT;
UPDATE approvals SET owner = (
    SELECT p.name FROM streams s JOIN principals p USING (principal) WHERE s.stream = approvals.stream
);

CREATE INDEX approvals_of_owner ON approvals (owner, seq);
CREATE INDEX approvals_of_owner_subject ON approvals (owner, subject_id, seq);
CREATE INDEX approvals_of_owner_decision ON approvals (owner, decision, seq);
CREATE INDEX approvals_of_subject ON approvals (subject_id, seq);
CREATE INDEX approvals_of_decision ON approvals (decision, seq);
