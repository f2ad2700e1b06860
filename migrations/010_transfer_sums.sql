-- What the rows of transfer come to that are gone: when a rollout has been over for a
-- while, fleetd adds its rows up here, and deletes them in the same transaction. A
-- replica of the version before shows only the rows that are left.
CREATE TABLE transfer_sum (
    rollout text COLLATE "C" NOT NULL REFERENCES rollout ON DELETE CASCADE,
    region  text COLLATE "C" NOT NULL,
    devices bigint NOT NULL,
    -- Not bigint: devices can lie, and the sum is to be cut off where it is shown.
    local   numeric NOT NULL,
    delta   numeric NOT NULL,
    packed  numeric NOT NULL,
    "full"  numeric NOT NULL,
    peer    numeric NOT NULL,
    index   numeric NOT NULL,
    saved   numeric NOT NULL,
    PRIMARY KEY (rollout, region)
);

-- The newest attempt of the device whose row is in transfer_sum. What comes of it or of
-- earlier ones is there already. Null: none is.
ALTER TABLE rollout_device ADD COLUMN summed_epoch bigint, ADD COLUMN summed_attempt integer;

-- The device was counted in transfer_sum before it made this row.
ALTER TABLE transfer ADD COLUMN again boolean NOT NULL DEFAULT false;
