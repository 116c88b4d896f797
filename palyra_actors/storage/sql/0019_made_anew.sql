-- Files from before 3 and before 9 have runs and whole states whose columns that were added since stayed at
-- their default. `migrations.py` makes those rows anew from the events.
SELECT 1;
