-- Conventions: text ids are COLLATE "C" (bytewise, so that cursors and keys
-- sort as Go does); constraints are named, because the store maps them to
-- refusals; the database's clock stamps rows.

-- What operators and certificates say about a device. What it reports, and
-- therefore changes all the time, is in contact.
CREATE TABLE device (
    id              text COLLATE "C" PRIMARY KEY,
    bucket          integer     NOT NULL,
    model           text COLLATE "C" NOT NULL DEFAULT '',
    hardware        text COLLATE "C" NOT NULL DEFAULT '',
    region          text COLLATE "C" NOT NULL DEFAULT '',
    customer        text COLLATE "C" NOT NULL DEFAULT '',
    time_zone       text        NOT NULL DEFAULT '',
    labels          jsonb       NOT NULL DEFAULT '{}',
    polling_seconds bigint      NOT NULL DEFAULT 0,
    revision        bigint      NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT device_id_format CHECK (id ~ '^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$'),
    CONSTRAINT device_bucket_range CHECK (bucket >= 0 AND bucket < 1000000),
    CONSTRAINT device_polling_range CHECK (polling_seconds >= 0),
    CONSTRAINT device_labels_object CHECK (jsonb_typeof(labels) = 'object')
);
CREATE INDEX device_model ON device (model, id);
CREATE INDEX device_region ON device (region, id);
CREATE INDEX device_customer ON device (customer, id);

CREATE TABLE contact (
    device        text COLLATE "C" PRIMARY KEY REFERENCES device ON DELETE CASCADE,
    first_contact timestamptz NOT NULL,
    last_contact  timestamptz NOT NULL,
    connected     boolean     NOT NULL DEFAULT false,
    connection    bigint      NOT NULL DEFAULT 0,
    node          text        NOT NULL DEFAULT '',
    last_check_in timestamptz,
    check_in_ms   bigint      NOT NULL DEFAULT 0,
    mode          text        NOT NULL DEFAULT '',
    agent         text        NOT NULL DEFAULT '',
    heartbeat     jsonb,
    epoch         bigint      NOT NULL DEFAULT 0, -- of the newest heartbeat
    sequence      bigint      NOT NULL DEFAULT 0,
    assignment_held bigint    NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE INDEX contact_connected ON contact (device) WHERE connected;

-- What runs on a device, by component. sort_key orders as semver does.
CREATE TABLE device_version (
    device    text COLLATE "C" NOT NULL REFERENCES device ON DELETE CASCADE,
    component text COLLATE "C" NOT NULL,
    version   text COLLATE "C" NOT NULL,
    sort_key  text COLLATE "C" NOT NULL,
    epoch     bigint NOT NULL,
    sequence  bigint NOT NULL,
    PRIMARY KEY (device, component)
);
CREATE INDEX device_version_sort ON device_version (component, sort_key, device);

CREATE TABLE cohort (
    name        text COLLATE "C" PRIMARY KEY,
    description text        NOT NULL DEFAULT '',
    selector    text        NOT NULL DEFAULT '',
    devices     text[],
    revision    bigint      NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT cohort_name_format CHECK (name ~ '^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$'),
    CONSTRAINT cohort_selector_or_devices CHECK ((selector = '') = (devices IS NOT NULL))
);
CREATE INDEX cohort_devices ON cohort USING gin (devices) WHERE devices IS NOT NULL;

-- leaving: no longer matches, but is pinned by an active rollout.
CREATE TABLE cohort_member (
    cohort  text COLLATE "C" NOT NULL REFERENCES cohort ON DELETE CASCADE,
    device  text COLLATE "C" NOT NULL REFERENCES device ON DELETE CASCADE,
    bucket  integer NOT NULL,
    leaving boolean NOT NULL DEFAULT false,
    PRIMARY KEY (cohort, device)
);
CREATE INDEX cohort_member_bucket ON cohort_member (cohort, bucket, device);
CREATE INDEX cohort_member_device ON cohort_member (device, cohort);
CREATE INDEX cohort_member_leaving ON cohort_member (cohort) WHERE leaving;

-- The newest signed manifest of each cohort and assignment of each device,
-- byte for byte as published.
CREATE TABLE manifest (
    cohort       text COLLATE "C" PRIMARY KEY REFERENCES cohort ON DELETE CASCADE,
    version      bigint      NOT NULL,
    signed       bytea       NOT NULL,
    issued_at    timestamptz NOT NULL,
    refresh_at   timestamptz NOT NULL,
    published_at timestamptz,
    CONSTRAINT manifest_version_positive CHECK (version > 0),
    CONSTRAINT manifest_size CHECK (octet_length(signed) <= 16384)
);
CREATE INDEX manifest_refresh ON manifest (refresh_at);

CREATE TABLE assignment (
    device       text COLLATE "C" PRIMARY KEY REFERENCES device ON DELETE CASCADE,
    version      bigint      NOT NULL,
    signed       bytea       NOT NULL,
    issued_at    timestamptz NOT NULL,
    refresh_at   timestamptz NOT NULL,
    published_at timestamptz,
    CONSTRAINT assignment_version_positive CHECK (version > 0),
    CONSTRAINT assignment_size CHECK (octet_length(signed) <= 8192)
);
CREATE INDEX assignment_refresh ON assignment (refresh_at);

-- What has to go to the broker, at most one row per topic and region: a newer
-- version replaces an older one that is still waiting. The bytes are in
-- manifest, assignment and command.
CREATE TABLE outbox (
    kind          text COLLATE "C" NOT NULL,
    id            text COLLATE "C" NOT NULL, -- cohort, device or command id
    region        text COLLATE "C" NOT NULL DEFAULT 'default',
    version       bigint      NOT NULL,
    attempts      integer     NOT NULL DEFAULT 0,
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    created_at    timestamptz NOT NULL DEFAULT now(),
    error         text        NOT NULL DEFAULT '',
    PRIMARY KEY (kind, id, region),
    CONSTRAINT outbox_kind CHECK (kind IN ('manifest', 'assignment', 'command'))
);
CREATE INDEX outbox_due ON outbox (region, kind, claimed_until, created_at);

CREATE TABLE artifact (
    sha256     text COLLATE "C" PRIMARY KEY,
    length     bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text        NOT NULL,
    CONSTRAINT artifact_sha256_format CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    CONSTRAINT artifact_length_positive CHECK (length > 0)
);

CREATE TABLE release (
    name           text COLLATE "C" NOT NULL,
    version        text COLLATE "C" NOT NULL,
    sort_key       text COLLATE "C" NOT NULL,
    component      text COLLATE "C" NOT NULL,
    path           text COLLATE "C" NOT NULL,
    length         bigint      NOT NULL,
    sha256         text COLLATE "C" NOT NULL REFERENCES artifact,
    models         text[]      NOT NULL,
    hardware       text[]      NOT NULL DEFAULT '{}',
    security_floor text        NOT NULL DEFAULT '',
    notes          text        NOT NULL DEFAULT '',
    created_at     timestamptz NOT NULL DEFAULT now(),
    created_by     text        NOT NULL,
    PRIMARY KEY (name, version),
    CONSTRAINT release_path_unique UNIQUE (path),
    CONSTRAINT release_models_some CHECK (cardinality(models) > 0)
);
CREATE INDEX release_component ON release (component, sort_key);

-- Signed TUF metadata, byte for byte.
CREATE TABLE repository_file (
    repository text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    version    bigint      NOT NULL,
    bytes      bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (repository, name, version),
    CONSTRAINT repository_file_repository CHECK (repository IN ('image', 'director')),
    CONSTRAINT repository_file_version_positive CHECK (version > 0)
);

-- The snapshot of the image repository that manifests pin: one row.
CREATE TABLE image_pin (
    only_row boolean PRIMARY KEY DEFAULT true,
    version  bigint NOT NULL,
    length   bigint NOT NULL,
    sha256   text   NOT NULL,
    CONSTRAINT image_pin_one_row CHECK (only_row)
);

CREATE TABLE rollout (
    id              text COLLATE "C" PRIMARY KEY,
    sequence        bigint      GENERATED ALWAYS AS IDENTITY,
    revision        bigint      NOT NULL DEFAULT 1,
    kind            text        NOT NULL,
    state           text        NOT NULL DEFAULT 'draft',
    component       text COLLATE "C" NOT NULL,
    release         text COLLATE "C" NOT NULL,
    version         text COLLATE "C" NOT NULL,
    canary_cohort   text COLLATE "C" NOT NULL DEFAULT '',
    from_constraint text        NOT NULL DEFAULT '',
    priority        bigint      NOT NULL DEFAULT 0,
    rollout_offset  integer     NOT NULL,
    policy          jsonb       NOT NULL,
    -- of the policy, for the statement that applies reports
    silent_seconds  double precision NOT NULL,
    silent_factor   double precision NOT NULL,
    note            text        NOT NULL DEFAULT '',
    reason          text        NOT NULL DEFAULT '',
    revert_of       text COLLATE "C" REFERENCES rollout,
    created_by      text        NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    start_at        timestamptz,
    started_at      timestamptz,
    paused_at       timestamptz,
    resumed_at      timestamptz,
    finished_at     timestamptz,
    CONSTRAINT rollout_release FOREIGN KEY (release, version) REFERENCES release (name, version),
    CONSTRAINT rollout_sequence_unique UNIQUE (sequence),
    CONSTRAINT rollout_kind CHECK (kind IN ('update', 'revert')),
    CONSTRAINT rollout_state CHECK (state IN ('draft', 'scheduled', 'running', 'paused', 'completed', 'cancelled', 'reverting', 'reverted')),
    CONSTRAINT rollout_offset_range CHECK (rollout_offset >= 0 AND rollout_offset < 1000000),
    CONSTRAINT rollout_started CHECK (state NOT IN ('running', 'paused', 'completed') OR started_at IS NOT NULL),
    CONSTRAINT rollout_scheduled CHECK (state <> 'scheduled' OR start_at IS NOT NULL)
);
CREATE INDEX rollout_live ON rollout (state, sequence) WHERE state IN ('scheduled', 'running', 'paused');

CREATE TABLE rollout_cohort (
    rollout text COLLATE "C" NOT NULL REFERENCES rollout ON DELETE CASCADE,
    cohort  text COLLATE "C" NOT NULL REFERENCES cohort,
    place   integer NOT NULL,
    canary  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (rollout, cohort)
);
CREATE INDEX rollout_cohort_cohort ON rollout_cohort (cohort, rollout);

CREATE TABLE rollout_wave (
    rollout        text COLLATE "C" NOT NULL REFERENCES rollout ON DELETE CASCADE,
    index          integer NOT NULL,
    share_ppm      bigint  NOT NULL,
    cohort         text COLLATE "C" NOT NULL DEFAULT '',
    state          text    NOT NULL DEFAULT 'pending',
    start_ppm      bigint  NOT NULL DEFAULT 0,
    threshold_ppm  bigint  NOT NULL DEFAULT 0,
    opened_at      timestamptz,
    opens_at       timestamptz,
    closed_at      timestamptz,
    spread_seconds bigint  NOT NULL,
    soak_seconds   double precision NOT NULL,
    sample_at      timestamptz,
    members        bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (rollout, index),
    CONSTRAINT rollout_wave_state CHECK (state IN ('pending', 'open', 'passed')),
    CONSTRAINT rollout_wave_bounds CHECK (start_ppm >= 0 AND threshold_ppm >= start_ppm AND threshold_ppm <= 1000000),
    CONSTRAINT rollout_wave_share CHECK (share_ppm > 0 AND share_ppm <= 1000000),
    CONSTRAINT rollout_wave_opened CHECK (state = 'pending' OR (opened_at IS NOT NULL AND opens_at IS NOT NULL))
);
CREATE UNIQUE INDEX rollout_wave_one_open ON rollout_wave (rollout) WHERE state = 'open';

-- Where each device stands in each rollout: the newest report by (epoch,
-- sequence), and beside it the newest end of an attempt, which a
-- further attempt does not hide.
CREATE TABLE rollout_device (
    rollout       text COLLATE "C" NOT NULL REFERENCES rollout ON DELETE CASCADE,
    device        text COLLATE "C" NOT NULL REFERENCES device ON DELETE CASCADE,
    position      integer NOT NULL,
    canary        boolean NOT NULL,
    model         text COLLATE "C" NOT NULL,
    hardware      text COLLATE "C" NOT NULL,
    region        text COLLATE "C" NOT NULL,
    from_version  text COLLATE "C" NOT NULL,
    state         text COLLATE "C" NOT NULL,
    reason        text    NOT NULL DEFAULT '',
    detail        text    NOT NULL DEFAULT '',
    revision      bigint  NOT NULL,
    epoch         bigint  NOT NULL,
    attempt       integer NOT NULL,
    sequence      bigint  NOT NULL,
    first_at      timestamptz NOT NULL DEFAULT now(),
    reported_at   timestamptz NOT NULL, -- when the newest report was applied
    until_at      timestamptz,          -- when the device said that it looks again
    silent_after  double precision NOT NULL, -- seconds without news until it counts as silent
    outcome       text COLLATE "C",
    outcome_reason text   NOT NULL DEFAULT '',
    outcome_at    timestamptz,
    outcome_epoch bigint  NOT NULL DEFAULT 0,
    outcome_attempt integer NOT NULL DEFAULT 0,
    outcome_sequence bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (rollout, device),
    CONSTRAINT rollout_device_state CHECK (state IN ('waiting', 'downloading', 'verified', 'staged', 'trying', 'committed', 'failed', 'rolled_back')),
    CONSTRAINT rollout_device_outcome CHECK (outcome IN ('committed', 'failed', 'rolled_back') AND outcome_at IS NOT NULL OR outcome IS NULL AND outcome_at IS NULL)
) WITH (fillfactor = 80);
CREATE INDEX rollout_device_device ON rollout_device (device);
CREATE INDEX rollout_device_position ON rollout_device (rollout, position);
CREATE INDEX rollout_device_outcome_at ON rollout_device (rollout, outcome_at) WHERE outcome IS NOT NULL;
CREATE INDEX rollout_device_undecided ON rollout_device (rollout, reported_at) WHERE state NOT IN ('committed', 'failed', 'rolled_back');

-- Every report, for a device's history. Pruned by age.
CREATE TABLE report (
    device    text COLLATE "C" NOT NULL REFERENCES device ON DELETE CASCADE,
    epoch     bigint  NOT NULL,
    sequence  bigint  NOT NULL,
    rollout   text COLLATE "C" NOT NULL,
    cohort    text    NOT NULL,
    component text    NOT NULL,
    release   text    NOT NULL,
    revision  bigint  NOT NULL,
    attempt   integer NOT NULL,
    state     text    NOT NULL,
    reason    text    NOT NULL,
    detail    text    NOT NULL,
    from_version text NOT NULL,
    running   text    NOT NULL,
    target    text    NOT NULL,
    at        timestamptz NOT NULL,
    stored_at timestamptz NOT NULL,
    PRIMARY KEY (device, epoch, sequence)
);
CREATE INDEX report_stored_at ON report (stored_at);

CREATE TABLE device_log (
    device    text COLLATE "C" NOT NULL REFERENCES device ON DELETE CASCADE,
    epoch     bigint NOT NULL,
    sequence  bigint NOT NULL,
    rollout   text   NOT NULL,
    source    text   NOT NULL,
    text      text   NOT NULL,
    at        timestamptz NOT NULL,
    stored_at timestamptz NOT NULL,
    PRIMARY KEY (device, epoch, sequence)
);
CREATE INDEX device_log_stored_at ON device_log (stored_at);

-- What devices sent and nobody can ever store where it belongs.
CREATE TABLE dead_letter (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    topic     bytea       NOT NULL,
    shard     bigint      NOT NULL,
    sequence  bigint      NOT NULL,
    payload   bytea       NOT NULL,
    stored_at timestamptz,
    consumer  text        NOT NULL, -- "registry" or "telemetry"
    reason    text        NOT NULL,
    CONSTRAINT dead_letter_once UNIQUE (consumer, shard, sequence)
);

CREATE TABLE alert (
    kind     text COLLATE "C" NOT NULL,
    object   text COLLATE "C" NOT NULL,
    message  text        NOT NULL,
    count    bigint      NOT NULL DEFAULT 1,
    first_at timestamptz NOT NULL DEFAULT now(),
    last_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, object)
);

CREATE TABLE command (
    id         text COLLATE "C" PRIMARY KEY,
    device     text COLLATE "C" NOT NULL REFERENCES device ON DELETE CASCADE,
    version    bigint      NOT NULL,
    action     text        NOT NULL,
    rollout    text        NOT NULL DEFAULT '',
    signed     bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text        NOT NULL,
    expires_at timestamptz NOT NULL,
    acked_at   timestamptz,
    CONSTRAINT command_device_version UNIQUE (device, version)
);

CREATE TABLE lease (
    name       text COLLATE "C" PRIMARY KEY,
    holder     text        NOT NULL,
    term       bigint      NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE audit (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT now(),
    actor           text COLLATE "C" NOT NULL,
    action          text COLLATE "C" NOT NULL,
    object          text COLLATE "C" NOT NULL,
    before_revision bigint      NOT NULL DEFAULT 0,
    after_revision  bigint      NOT NULL DEFAULT 0,
    request_id      text        NOT NULL DEFAULT '',
    detail          jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_object ON audit (object, id);
CREATE INDEX audit_actor ON audit (actor, id);
-- What the broker refused comes by way of the uplink, perhaps more than once.
CREATE UNIQUE INDEX audit_refused ON audit (request_id) WHERE action LIKE 'refused.%';

CREATE TABLE idempotency (
    actor      text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    hash       text        NOT NULL,
    object     text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (actor, key)
);
CREATE INDEX idempotency_created_at ON idempotency (created_at);
