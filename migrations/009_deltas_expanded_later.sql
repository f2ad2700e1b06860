-- The delta that looks through compression is made when the plain one is there already:
-- pending -> running -> done | pending again | failed, leased as the plain one is. Empty:
-- nobody is to make it, or a replica of the version before has tried.
ALTER TABLE delta ADD COLUMN expanded_state text NOT NULL DEFAULT '',
    ADD COLUMN expanded_attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN expanded_holder text NOT NULL DEFAULT '',
    ADD COLUMN expanded_until timestamptz, -- of the lease, or of the pause before the next attempt
    ADD COLUMN expanded_at timestamptz, -- done or failed since
    ADD COLUMN expanded_error text NOT NULL DEFAULT '', -- of the newest attempt
    ADD CONSTRAINT delta_expanded_state CHECK (expanded_state IN ('', 'pending', 'running', 'done', 'failed')),
    ADD CONSTRAINT delta_expanded_running CHECK (expanded_state <> 'running' OR expanded_until IS NOT NULL);

CREATE INDEX delta_to_expand ON delta (devices DESC) WHERE expanded_state IN ('pending', 'running');
