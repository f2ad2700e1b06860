-- What a release requires, of its own component or of others, as the release
-- role signed it: a list of {"component": ..., "versions": ...}. Null: not known
-- yet. fleetd fills that in from the signed list when it begins, also for what a
-- replica of the version before has added since.
ALTER TABLE release ADD COLUMN requires jsonb;
