-- The regions that manifests, assignments and commands are published to: each
-- change puts one outbox row per region that is not retired. fleetd adds those
-- that its configuration names, and never takes one out; docs/regions.md says
-- how that is done.
CREATE TABLE region (
    name       text COLLATE "C" PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    filled_at  timestamptz, -- all that was signed before is in the outbox; null: not yet
    retired_at timestamptz, -- null: in use
    CONSTRAINT region_name_format CHECK (name ~ '^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$')
);

-- Until now there was one, of this name; a new database has none yet.
INSERT INTO region (name, filled_at)
SELECT 'default', now() WHERE EXISTS (SELECT FROM cohort) OR EXISTS (SELECT FROM device);

-- Shards and sequences are those of a region's streams.
ALTER TABLE dead_letter ADD COLUMN region text COLLATE "C" NOT NULL DEFAULT 'default',
    DROP CONSTRAINT dead_letter_once,
    ADD CONSTRAINT dead_letter_once UNIQUE (consumer, region, shard, sequence);
