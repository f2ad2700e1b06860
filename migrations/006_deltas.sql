-- A release's block index, as the release role signed it. Null: it has none, or was
-- added by a replica of the version before: fleetd fills that in when it begins.
ALTER TABLE release ADD COLUMN index_length bigint, ADD COLUMN index_sha256 text COLLATE "C",
    ADD CONSTRAINT release_index_whole CHECK ((index_length IS NULL) = (index_sha256 IS NULL));

-- Deltas that make one artifact from another: those that exist, and those to make.
-- pending -> running -> ready | useless | pending again | failed. A delta is useless
-- when it is not worth its bytes. Whoever runs one leases the row.
CREATE TABLE delta (
    target       text COLLATE "C" NOT NULL, -- artifact that it makes
    source       text COLLATE "C" NOT NULL, -- artifact that it is made from
    state        text NOT NULL DEFAULT 'pending',
    devices      bigint NOT NULL DEFAULT 0, -- that ran the source and were to run the target, when last counted
    length       bigint, -- bytes
    sha256       text COLLATE "C",
    coder        text NOT NULL DEFAULT '',
    seconds      double precision NOT NULL DEFAULT 0, -- that the newest attempt took
    peak         bigint NOT NULL DEFAULT 0, -- bytes of memory that it took; 0: not known
    error        text NOT NULL DEFAULT '', -- of the newest attempt
    attempts     integer NOT NULL DEFAULT 0,
    holder       text NOT NULL DEFAULT '',
    leased_until timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz, -- ready, useless or failed since
    listed       boolean NOT NULL DEFAULT false, -- in the delta index that manifests pin
    PRIMARY KEY (target, source),
    CONSTRAINT delta_state CHECK (state IN ('pending', 'running', 'ready', 'useless', 'failed')),
    CONSTRAINT delta_running CHECK (state <> 'running' OR leased_until IS NOT NULL),
    CONSTRAINT delta_ready CHECK (state <> 'ready' OR (length IS NOT NULL AND sha256 IS NOT NULL)),
    CONSTRAINT delta_finished CHECK ((state IN ('ready', 'useless', 'failed')) = (finished_at IS NOT NULL)),
    CONSTRAINT delta_listed CHECK (NOT listed OR state = 'ready')
);

CREATE INDEX delta_to_do ON delta (devices DESC) WHERE state IN ('pending', 'running');

CREATE INDEX delta_to_list ON delta (target) WHERE state = 'ready' AND NOT listed;

-- The delta index of an artifact that manifests pin.
CREATE TABLE delta_index (
    target  text COLLATE "C" PRIMARY KEY,
    length  bigint, -- null: none is made yet
    sha256  text COLLATE "C",
    made_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT delta_index_whole CHECK ((length IS NULL) = (sha256 IS NULL))
);

-- When the devices that a rollout concerns were last counted for its deltas.
ALTER TABLE rollout ADD COLUMN deltas_at timestamptz;

-- Where the bytes of a device's attempt came from, as it reported.
CREATE TABLE transfer (
    rollout  text COLLATE "C" NOT NULL REFERENCES rollout ON DELETE CASCADE,
    device   text COLLATE "C" NOT NULL REFERENCES device ON DELETE CASCADE,
    epoch    bigint NOT NULL,
    attempt  integer NOT NULL,
    sequence bigint NOT NULL,
    region   text COLLATE "C" NOT NULL,
    whole    boolean NOT NULL, -- the artifact was there in the end
    local    bigint NOT NULL,
    delta    bigint NOT NULL,
    packed   bigint NOT NULL,
    "full"   bigint NOT NULL,
    peer     bigint NOT NULL,
    index    bigint NOT NULL,
    PRIMARY KEY (rollout, device, epoch, attempt)
);
