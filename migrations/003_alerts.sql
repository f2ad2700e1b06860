-- Operators acknowledge an alert (somebody knows, it stays), or clear it (the
-- row goes; seen again, it is a new one). The revision grows with each sighting
-- and each change.
ALTER TABLE alert ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY,
    ADD COLUMN revision bigint NOT NULL DEFAULT 1,
    ADD COLUMN acknowledged_at timestamptz,
    ADD COLUMN acknowledged_by text NOT NULL DEFAULT '',
    ADD COLUMN note text NOT NULL DEFAULT '',
    ADD CONSTRAINT alert_id_unique UNIQUE (id);
