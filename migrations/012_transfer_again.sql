-- The device was counted in transfer_sum before it made this row.
SET LOCAL lock_timeout = '2s';

ALTER TABLE transfer ADD COLUMN again boolean NOT NULL DEFAULT false;
