-- The newest attempt of the device whose row is in transfer_sum. What comes of it or of
-- earlier ones is there already. Null: none is.
SET LOCAL lock_timeout = '2s';

ALTER TABLE rollout_device ADD COLUMN summed_epoch bigint, ADD COLUMN summed_attempt integer;
