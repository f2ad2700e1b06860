-- What the rows of transfer come to that are gone: when a rollout has been over for a
-- while, fleetd adds its rows up here, and deletes them in the same transaction. A
-- replica of the version before shows only the rows that are left.
--
-- This and the next two are apart because views of a rollout lock the three tables in
-- another order. Who waits for a table keeps others from it: after two seconds it fails,
-- and fleetd begins again.
SET LOCAL lock_timeout = '2s';

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
