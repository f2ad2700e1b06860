-- The longest time between two check-ins of a polling device as it goes by now,
-- from its newest heartbeat. 0: it stays connected, or did not say.
-- How long it may be silent follows from it when somebody asks;
-- rollout_device.silent_after is only for replicas of the release before.
ALTER TABLE contact ADD COLUMN polling_seconds bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT contact_polling_range CHECK (polling_seconds >= 0);
