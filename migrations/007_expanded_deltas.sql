-- A second delta between the same two artifacts, that looks through compression. Null:
-- there is none, or it is not worth it. plain_useless: the first one is not worth its bytes,
-- and only the second is listed. A replica of the version before lists the first one, which
-- is not there, and not the second: until the index is made again, devices do without.
ALTER TABLE delta ADD COLUMN expanded_length bigint, ADD COLUMN expanded_sha256 text COLLATE "C",
    ADD COLUMN plain_useless boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT delta_expanded_whole CHECK ((expanded_length IS NULL) = (expanded_sha256 IS NULL)),
    ADD CONSTRAINT delta_plain_useless CHECK (NOT plain_useless OR expanded_length IS NOT NULL);
