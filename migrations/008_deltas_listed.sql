-- A replica of before migration 007 publishes a delta index without the deltas that look
-- through compression, and notes them as listed. whole_sha256: the index that a replica has
-- published which lists both kinds; if it is another, the index is to be made again.
-- expanded_listed: the second delta is in the index that manifests pin, or has found no room
-- there. Of what is there already nobody knows.
ALTER TABLE delta_index ADD COLUMN whole_sha256 text COLLATE "C";

UPDATE delta_index SET whole_sha256 = sha256;

ALTER TABLE delta ADD COLUMN expanded_listed boolean NOT NULL DEFAULT false;

CREATE INDEX delta_expanded_to_list ON delta (target) WHERE state = 'ready' AND expanded_sha256 IS NOT NULL AND NOT expanded_listed;

CREATE INDEX delta_index_not_whole ON delta_index (made_at) WHERE sha256 IS DISTINCT FROM whole_sha256;

CREATE INDEX delta_expanded ON delta (target) WHERE state = 'ready' AND expanded_sha256 IS NOT NULL;
