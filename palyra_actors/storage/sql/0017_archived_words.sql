-- The full-text index knows which sessions are archived: a search among those does not look at all that have the words.
UPDATE session_texts SET owner = owner || ' archived'
WHERE rowid IN (SELECT s.stream FROM sessions s WHERE s.status = 2) AND owner NOT LIKE '% archived';
