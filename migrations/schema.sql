-- What the migrations make. Written by the test in this folder (-update); do not edit.
CREATE TABLE public.alert (
    kind text NOT NULL COLLATE pg_catalog."C",
    object text NOT NULL COLLATE pg_catalog."C",
    message text NOT NULL,
    count bigint DEFAULT 1 NOT NULL,
    first_at timestamp with time zone DEFAULT now() NOT NULL,
    last_at timestamp with time zone DEFAULT now() NOT NULL,
    id bigint NOT NULL,
    revision bigint DEFAULT 1 NOT NULL,
    acknowledged_at timestamp with time zone,
    acknowledged_by text DEFAULT ''::text NOT NULL,
    note text DEFAULT ''::text NOT NULL
);
ALTER TABLE public.alert ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.alert_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.artifact (
    sha256 text NOT NULL COLLATE pg_catalog."C",
    length bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    created_by text NOT NULL,
    CONSTRAINT artifact_length_positive CHECK ((length > 0)),
    CONSTRAINT artifact_sha256_format CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text))
);
CREATE TABLE public.assignment (
    device text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    signed bytea NOT NULL,
    issued_at timestamp with time zone NOT NULL,
    refresh_at timestamp with time zone NOT NULL,
    published_at timestamp with time zone,
    CONSTRAINT assignment_size CHECK ((octet_length(signed) <= 8192)),
    CONSTRAINT assignment_version_positive CHECK ((version > 0))
);
CREATE TABLE public.audit (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    actor text NOT NULL COLLATE pg_catalog."C",
    action text NOT NULL COLLATE pg_catalog."C",
    object text NOT NULL COLLATE pg_catalog."C",
    before_revision bigint DEFAULT 0 NOT NULL,
    after_revision bigint DEFAULT 0 NOT NULL,
    request_id text DEFAULT ''::text NOT NULL,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL
);
ALTER TABLE public.audit ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.audit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.cohort (
    name text NOT NULL COLLATE pg_catalog."C",
    description text DEFAULT ''::text NOT NULL,
    selector text DEFAULT ''::text NOT NULL,
    devices text[],
    revision bigint DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT cohort_name_format CHECK ((name ~ '^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$'::text)),
    CONSTRAINT cohort_selector_or_devices CHECK (((selector = ''::text) = (devices IS NOT NULL)))
);
CREATE TABLE public.cohort_member (
    cohort text NOT NULL COLLATE pg_catalog."C",
    device text NOT NULL COLLATE pg_catalog."C",
    bucket integer NOT NULL,
    leaving boolean DEFAULT false NOT NULL
);
CREATE TABLE public.command (
    id text NOT NULL COLLATE pg_catalog."C",
    device text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    action text NOT NULL,
    rollout text DEFAULT ''::text NOT NULL,
    signed bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    created_by text NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    acked_at timestamp with time zone
);
CREATE TABLE public.contact (
    device text NOT NULL COLLATE pg_catalog."C",
    first_contact timestamp with time zone NOT NULL,
    last_contact timestamp with time zone NOT NULL,
    connected boolean DEFAULT false NOT NULL,
    connection bigint DEFAULT 0 NOT NULL,
    node text DEFAULT ''::text NOT NULL,
    last_check_in timestamp with time zone,
    check_in_ms bigint DEFAULT 0 NOT NULL,
    mode text DEFAULT ''::text NOT NULL,
    agent text DEFAULT ''::text NOT NULL,
    heartbeat jsonb,
    epoch bigint DEFAULT 0 NOT NULL,
    sequence bigint DEFAULT 0 NOT NULL,
    assignment_held bigint DEFAULT 0 NOT NULL,
    polling_seconds bigint DEFAULT 0 NOT NULL,
    CONSTRAINT contact_polling_range CHECK ((polling_seconds >= 0))
)
WITH (fillfactor='70');
CREATE TABLE public.dead_letter (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    topic bytea NOT NULL,
    shard bigint NOT NULL,
    sequence bigint NOT NULL,
    payload bytea NOT NULL,
    stored_at timestamp with time zone,
    consumer text NOT NULL,
    reason text NOT NULL,
    region text DEFAULT 'default'::text NOT NULL COLLATE pg_catalog."C"
);
ALTER TABLE public.dead_letter ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.dead_letter_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.delta (
    target text NOT NULL COLLATE pg_catalog."C",
    source text NOT NULL COLLATE pg_catalog."C",
    state text DEFAULT 'pending'::text NOT NULL,
    devices bigint DEFAULT 0 NOT NULL,
    length bigint,
    sha256 text COLLATE pg_catalog."C",
    coder text DEFAULT ''::text NOT NULL,
    seconds double precision DEFAULT 0 NOT NULL,
    peak bigint DEFAULT 0 NOT NULL,
    error text DEFAULT ''::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    holder text DEFAULT ''::text NOT NULL,
    leased_until timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    listed boolean DEFAULT false NOT NULL,
    expanded_length bigint,
    expanded_sha256 text COLLATE pg_catalog."C",
    plain_useless boolean DEFAULT false NOT NULL,
    expanded_listed boolean DEFAULT false NOT NULL,
    expanded_state text DEFAULT ''::text NOT NULL,
    expanded_attempts integer DEFAULT 0 NOT NULL,
    expanded_holder text DEFAULT ''::text NOT NULL,
    expanded_until timestamp with time zone,
    expanded_at timestamp with time zone,
    expanded_error text DEFAULT ''::text NOT NULL,
    CONSTRAINT delta_expanded_running CHECK (((expanded_state <> 'running'::text) OR (expanded_until IS NOT NULL))),
    CONSTRAINT delta_expanded_state CHECK ((expanded_state = ANY (ARRAY[''::text, 'pending'::text, 'running'::text, 'done'::text, 'failed'::text]))),
    CONSTRAINT delta_expanded_whole CHECK (((expanded_length IS NULL) = (expanded_sha256 IS NULL))),
    CONSTRAINT delta_finished CHECK (((state = ANY (ARRAY['ready'::text, 'useless'::text, 'failed'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT delta_listed CHECK (((NOT listed) OR (state = 'ready'::text))),
    CONSTRAINT delta_plain_useless CHECK (((NOT plain_useless) OR (expanded_length IS NOT NULL))),
    CONSTRAINT delta_ready CHECK (((state <> 'ready'::text) OR ((length IS NOT NULL) AND (sha256 IS NOT NULL)))),
    CONSTRAINT delta_running CHECK (((state <> 'running'::text) OR (leased_until IS NOT NULL))),
    CONSTRAINT delta_state CHECK ((state = ANY (ARRAY['pending'::text, 'running'::text, 'ready'::text, 'useless'::text, 'failed'::text])))
);
CREATE TABLE public.delta_index (
    target text NOT NULL COLLATE pg_catalog."C",
    length bigint,
    sha256 text COLLATE pg_catalog."C",
    made_at timestamp with time zone DEFAULT now() NOT NULL,
    whole_sha256 text COLLATE pg_catalog."C",
    CONSTRAINT delta_index_whole CHECK (((length IS NULL) = (sha256 IS NULL)))
);
CREATE TABLE public.device (
    id text NOT NULL COLLATE pg_catalog."C",
    bucket integer NOT NULL,
    model text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    hardware text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    region text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    customer text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    time_zone text DEFAULT ''::text NOT NULL,
    labels jsonb DEFAULT '{}'::jsonb NOT NULL,
    polling_seconds bigint DEFAULT 0 NOT NULL,
    revision bigint DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT device_bucket_range CHECK (((bucket >= 0) AND (bucket < 1000000))),
    CONSTRAINT device_id_format CHECK ((id ~ '^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$'::text)),
    CONSTRAINT device_labels_object CHECK ((jsonb_typeof(labels) = 'object'::text)),
    CONSTRAINT device_polling_range CHECK ((polling_seconds >= 0))
);
CREATE TABLE public.device_log (
    device text NOT NULL COLLATE pg_catalog."C",
    epoch bigint NOT NULL,
    sequence bigint NOT NULL,
    rollout text NOT NULL,
    source text NOT NULL,
    text text NOT NULL,
    at timestamp with time zone NOT NULL,
    stored_at timestamp with time zone NOT NULL
);
CREATE TABLE public.device_version (
    device text NOT NULL COLLATE pg_catalog."C",
    component text NOT NULL COLLATE pg_catalog."C",
    version text NOT NULL COLLATE pg_catalog."C",
    sort_key text NOT NULL COLLATE pg_catalog."C",
    epoch bigint NOT NULL,
    sequence bigint NOT NULL
);
CREATE TABLE public.idempotency (
    actor text NOT NULL COLLATE pg_catalog."C",
    key text NOT NULL COLLATE pg_catalog."C",
    hash text NOT NULL,
    object text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.image_pin (
    only_row boolean DEFAULT true NOT NULL,
    version bigint NOT NULL,
    length bigint NOT NULL,
    sha256 text NOT NULL,
    CONSTRAINT image_pin_one_row CHECK (only_row)
);
CREATE TABLE public.lease (
    name text NOT NULL COLLATE pg_catalog."C",
    holder text NOT NULL,
    term bigint NOT NULL,
    expires_at timestamp with time zone NOT NULL
);
CREATE TABLE public.manifest (
    cohort text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    signed bytea NOT NULL,
    issued_at timestamp with time zone NOT NULL,
    refresh_at timestamp with time zone NOT NULL,
    published_at timestamp with time zone,
    CONSTRAINT manifest_size CHECK ((octet_length(signed) <= 16384)),
    CONSTRAINT manifest_version_positive CHECK ((version > 0))
);
CREATE TABLE public.outbox (
    kind text NOT NULL COLLATE pg_catalog."C",
    id text NOT NULL COLLATE pg_catalog."C",
    region text DEFAULT 'default'::text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    claimed_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    error text DEFAULT ''::text NOT NULL,
    CONSTRAINT outbox_kind CHECK ((kind = ANY (ARRAY['manifest'::text, 'assignment'::text, 'command'::text])))
);
CREATE TABLE public.region (
    name text NOT NULL COLLATE pg_catalog."C",
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    filled_at timestamp with time zone,
    retired_at timestamp with time zone,
    CONSTRAINT region_name_format CHECK ((name ~ '^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$'::text))
);
CREATE TABLE public.release (
    name text NOT NULL COLLATE pg_catalog."C",
    version text NOT NULL COLLATE pg_catalog."C",
    sort_key text NOT NULL COLLATE pg_catalog."C",
    component text NOT NULL COLLATE pg_catalog."C",
    path text NOT NULL COLLATE pg_catalog."C",
    length bigint NOT NULL,
    sha256 text NOT NULL COLLATE pg_catalog."C",
    models text[] NOT NULL,
    hardware text[] DEFAULT '{}'::text[] NOT NULL,
    security_floor text DEFAULT ''::text NOT NULL,
    notes text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    created_by text NOT NULL,
    requires jsonb,
    index_length bigint,
    index_sha256 text COLLATE pg_catalog."C",
    CONSTRAINT release_index_whole CHECK (((index_length IS NULL) = (index_sha256 IS NULL))),
    CONSTRAINT release_models_some CHECK ((cardinality(models) > 0))
);
CREATE TABLE public.report (
    device text NOT NULL COLLATE pg_catalog."C",
    epoch bigint NOT NULL,
    sequence bigint NOT NULL,
    rollout text NOT NULL COLLATE pg_catalog."C",
    cohort text NOT NULL,
    component text NOT NULL,
    release text NOT NULL,
    revision bigint NOT NULL,
    attempt integer NOT NULL,
    state text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    from_version text NOT NULL,
    running text NOT NULL,
    target text NOT NULL,
    at timestamp with time zone NOT NULL,
    stored_at timestamp with time zone NOT NULL
);
CREATE TABLE public.repository_file (
    repository text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    bytes bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT repository_file_repository CHECK ((repository = ANY (ARRAY['image'::text, 'director'::text]))),
    CONSTRAINT repository_file_version_positive CHECK ((version > 0))
);
CREATE TABLE public.rollout (
    id text NOT NULL COLLATE pg_catalog."C",
    sequence bigint NOT NULL,
    revision bigint DEFAULT 1 NOT NULL,
    kind text NOT NULL,
    state text DEFAULT 'draft'::text NOT NULL,
    component text NOT NULL COLLATE pg_catalog."C",
    release text NOT NULL COLLATE pg_catalog."C",
    version text NOT NULL COLLATE pg_catalog."C",
    canary_cohort text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    from_constraint text DEFAULT ''::text NOT NULL,
    priority bigint DEFAULT 0 NOT NULL,
    rollout_offset integer NOT NULL,
    policy jsonb NOT NULL,
    silent_seconds double precision NOT NULL,
    silent_factor double precision NOT NULL,
    note text DEFAULT ''::text NOT NULL,
    reason text DEFAULT ''::text NOT NULL,
    revert_of text COLLATE pg_catalog."C",
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    start_at timestamp with time zone,
    started_at timestamp with time zone,
    paused_at timestamp with time zone,
    resumed_at timestamp with time zone,
    finished_at timestamp with time zone,
    deltas_at timestamp with time zone,
    CONSTRAINT rollout_kind CHECK ((kind = ANY (ARRAY['update'::text, 'revert'::text]))),
    CONSTRAINT rollout_offset_range CHECK (((rollout_offset >= 0) AND (rollout_offset < 1000000))),
    CONSTRAINT rollout_scheduled CHECK (((state <> 'scheduled'::text) OR (start_at IS NOT NULL))),
    CONSTRAINT rollout_started CHECK (((state <> ALL (ARRAY['running'::text, 'paused'::text, 'completed'::text])) OR (started_at IS NOT NULL))),
    CONSTRAINT rollout_state CHECK ((state = ANY (ARRAY['draft'::text, 'scheduled'::text, 'running'::text, 'paused'::text, 'completed'::text, 'cancelled'::text, 'reverting'::text, 'reverted'::text])))
);
CREATE TABLE public.rollout_cohort (
    rollout text NOT NULL COLLATE pg_catalog."C",
    cohort text NOT NULL COLLATE pg_catalog."C",
    place integer NOT NULL,
    canary boolean DEFAULT false NOT NULL
);
CREATE TABLE public.rollout_device (
    rollout text NOT NULL COLLATE pg_catalog."C",
    device text NOT NULL COLLATE pg_catalog."C",
    "position" integer NOT NULL,
    canary boolean NOT NULL,
    model text NOT NULL COLLATE pg_catalog."C",
    hardware text NOT NULL COLLATE pg_catalog."C",
    region text NOT NULL COLLATE pg_catalog."C",
    from_version text NOT NULL COLLATE pg_catalog."C",
    state text NOT NULL COLLATE pg_catalog."C",
    reason text DEFAULT ''::text NOT NULL,
    detail text DEFAULT ''::text NOT NULL,
    revision bigint NOT NULL,
    epoch bigint NOT NULL,
    attempt integer NOT NULL,
    sequence bigint NOT NULL,
    first_at timestamp with time zone DEFAULT now() NOT NULL,
    reported_at timestamp with time zone NOT NULL,
    until_at timestamp with time zone,
    silent_after double precision NOT NULL,
    outcome text COLLATE pg_catalog."C",
    outcome_reason text DEFAULT ''::text NOT NULL,
    outcome_at timestamp with time zone,
    outcome_epoch bigint DEFAULT 0 NOT NULL,
    outcome_attempt integer DEFAULT 0 NOT NULL,
    outcome_sequence bigint DEFAULT 0 NOT NULL,
    summed_epoch bigint,
    summed_attempt integer,
    CONSTRAINT rollout_device_outcome CHECK ((((outcome = ANY (ARRAY['committed'::text, 'failed'::text, 'rolled_back'::text])) AND (outcome_at IS NOT NULL)) OR ((outcome IS NULL) AND (outcome_at IS NULL)))),
    CONSTRAINT rollout_device_state CHECK ((state = ANY (ARRAY['waiting'::text, 'downloading'::text, 'verified'::text, 'staged'::text, 'trying'::text, 'committed'::text, 'failed'::text, 'rolled_back'::text])))
)
WITH (fillfactor='80');
ALTER TABLE public.rollout ALTER COLUMN sequence ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.rollout_sequence_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.rollout_wave (
    rollout text NOT NULL COLLATE pg_catalog."C",
    index integer NOT NULL,
    share_ppm bigint NOT NULL,
    cohort text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    state text DEFAULT 'pending'::text NOT NULL,
    start_ppm bigint DEFAULT 0 NOT NULL,
    threshold_ppm bigint DEFAULT 0 NOT NULL,
    opened_at timestamp with time zone,
    opens_at timestamp with time zone,
    closed_at timestamp with time zone,
    spread_seconds bigint NOT NULL,
    soak_seconds double precision NOT NULL,
    sample_at timestamp with time zone,
    members bigint DEFAULT 0 NOT NULL,
    CONSTRAINT rollout_wave_bounds CHECK (((start_ppm >= 0) AND (threshold_ppm >= start_ppm) AND (threshold_ppm <= 1000000))),
    CONSTRAINT rollout_wave_opened CHECK (((state = 'pending'::text) OR ((opened_at IS NOT NULL) AND (opens_at IS NOT NULL)))),
    CONSTRAINT rollout_wave_share CHECK (((share_ppm > 0) AND (share_ppm <= 1000000))),
    CONSTRAINT rollout_wave_state CHECK ((state = ANY (ARRAY['pending'::text, 'open'::text, 'passed'::text])))
);
CREATE TABLE public.transfer (
    rollout text NOT NULL COLLATE pg_catalog."C",
    device text NOT NULL COLLATE pg_catalog."C",
    epoch bigint NOT NULL,
    attempt integer NOT NULL,
    sequence bigint NOT NULL,
    region text NOT NULL COLLATE pg_catalog."C",
    whole boolean NOT NULL,
    local bigint NOT NULL,
    delta bigint NOT NULL,
    packed bigint NOT NULL,
    "full" bigint NOT NULL,
    peer bigint NOT NULL,
    index bigint NOT NULL,
    again boolean DEFAULT false NOT NULL
);
CREATE TABLE public.transfer_sum (
    rollout text NOT NULL COLLATE pg_catalog."C",
    region text NOT NULL COLLATE pg_catalog."C",
    devices bigint NOT NULL,
    local numeric NOT NULL,
    delta numeric NOT NULL,
    packed numeric NOT NULL,
    "full" numeric NOT NULL,
    peer numeric NOT NULL,
    index numeric NOT NULL,
    saved numeric NOT NULL
);
ALTER TABLE ONLY public.alert
    ADD CONSTRAINT alert_id_unique UNIQUE (id);
ALTER TABLE ONLY public.alert
    ADD CONSTRAINT alert_pkey PRIMARY KEY (kind, object);
ALTER TABLE ONLY public.artifact
    ADD CONSTRAINT artifact_pkey PRIMARY KEY (sha256);
ALTER TABLE ONLY public.assignment
    ADD CONSTRAINT assignment_pkey PRIMARY KEY (device);
ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.cohort_member
    ADD CONSTRAINT cohort_member_pkey PRIMARY KEY (cohort, device);
ALTER TABLE ONLY public.cohort
    ADD CONSTRAINT cohort_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.command
    ADD CONSTRAINT command_device_version UNIQUE (device, version);
ALTER TABLE ONLY public.command
    ADD CONSTRAINT command_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.contact
    ADD CONSTRAINT contact_pkey PRIMARY KEY (device);
ALTER TABLE ONLY public.dead_letter
    ADD CONSTRAINT dead_letter_once UNIQUE (consumer, region, shard, sequence);
ALTER TABLE ONLY public.dead_letter
    ADD CONSTRAINT dead_letter_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.delta_index
    ADD CONSTRAINT delta_index_pkey PRIMARY KEY (target);
ALTER TABLE ONLY public.delta
    ADD CONSTRAINT delta_pkey PRIMARY KEY (target, source);
ALTER TABLE ONLY public.device_log
    ADD CONSTRAINT device_log_pkey PRIMARY KEY (device, epoch, sequence);
ALTER TABLE ONLY public.device
    ADD CONSTRAINT device_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.device_version
    ADD CONSTRAINT device_version_pkey PRIMARY KEY (device, component);
ALTER TABLE ONLY public.idempotency
    ADD CONSTRAINT idempotency_pkey PRIMARY KEY (actor, key);
ALTER TABLE ONLY public.image_pin
    ADD CONSTRAINT image_pin_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY public.lease
    ADD CONSTRAINT lease_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.manifest
    ADD CONSTRAINT manifest_pkey PRIMARY KEY (cohort);
ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (kind, id, region);
ALTER TABLE ONLY public.region
    ADD CONSTRAINT region_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.release
    ADD CONSTRAINT release_path_unique UNIQUE (path);
ALTER TABLE ONLY public.release
    ADD CONSTRAINT release_pkey PRIMARY KEY (name, version);
ALTER TABLE ONLY public.report
    ADD CONSTRAINT report_pkey PRIMARY KEY (device, epoch, sequence);
ALTER TABLE ONLY public.repository_file
    ADD CONSTRAINT repository_file_pkey PRIMARY KEY (repository, name, version);
ALTER TABLE ONLY public.rollout_cohort
    ADD CONSTRAINT rollout_cohort_pkey PRIMARY KEY (rollout, cohort);
ALTER TABLE ONLY public.rollout_device
    ADD CONSTRAINT rollout_device_pkey PRIMARY KEY (rollout, device);
ALTER TABLE ONLY public.rollout
    ADD CONSTRAINT rollout_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.rollout
    ADD CONSTRAINT rollout_sequence_unique UNIQUE (sequence);
ALTER TABLE ONLY public.rollout_wave
    ADD CONSTRAINT rollout_wave_pkey PRIMARY KEY (rollout, index);
ALTER TABLE ONLY public.transfer
    ADD CONSTRAINT transfer_pkey PRIMARY KEY (rollout, device, epoch, attempt);
ALTER TABLE ONLY public.transfer_sum
    ADD CONSTRAINT transfer_sum_pkey PRIMARY KEY (rollout, region);
CREATE INDEX assignment_refresh ON public.assignment USING btree (refresh_at);
CREATE INDEX audit_actor ON public.audit USING btree (actor, id);
CREATE INDEX audit_object ON public.audit USING btree (object, id);
CREATE UNIQUE INDEX audit_refused ON public.audit USING btree (request_id) WHERE (action ~~ 'refused.%'::text);
CREATE INDEX cohort_devices ON public.cohort USING gin (devices) WHERE (devices IS NOT NULL);
CREATE INDEX cohort_member_bucket ON public.cohort_member USING btree (cohort, bucket, device);
CREATE INDEX cohort_member_device ON public.cohort_member USING btree (device, cohort);
CREATE INDEX cohort_member_leaving ON public.cohort_member USING btree (cohort) WHERE leaving;
CREATE INDEX contact_connected ON public.contact USING btree (device) WHERE connected;
CREATE INDEX delta_expanded ON public.delta USING btree (target) WHERE ((state = 'ready'::text) AND (expanded_sha256 IS NOT NULL));
CREATE INDEX delta_expanded_to_list ON public.delta USING btree (target) WHERE ((state = 'ready'::text) AND (expanded_sha256 IS NOT NULL) AND (NOT expanded_listed));
CREATE INDEX delta_index_not_whole ON public.delta_index USING btree (made_at) WHERE (sha256 IS DISTINCT FROM whole_sha256);
CREATE INDEX delta_to_do ON public.delta USING btree (devices DESC) WHERE (state = ANY (ARRAY['pending'::text, 'running'::text]));
CREATE INDEX delta_to_expand ON public.delta USING btree (devices DESC) WHERE (expanded_state = ANY (ARRAY['pending'::text, 'running'::text]));
CREATE INDEX delta_to_list ON public.delta USING btree (target) WHERE ((state = 'ready'::text) AND (NOT listed));
CREATE INDEX device_customer ON public.device USING btree (customer, id);
CREATE INDEX device_log_stored_at ON public.device_log USING btree (stored_at);
CREATE INDEX device_model ON public.device USING btree (model, id);
CREATE INDEX device_region ON public.device USING btree (region, id);
CREATE INDEX device_version_sort ON public.device_version USING btree (component, sort_key, device);
CREATE INDEX idempotency_created_at ON public.idempotency USING btree (created_at);
CREATE INDEX manifest_refresh ON public.manifest USING btree (refresh_at);
CREATE INDEX outbox_due ON public.outbox USING btree (region, kind, claimed_until, created_at);
CREATE INDEX release_component ON public.release USING btree (component, sort_key);
CREATE INDEX report_stored_at ON public.report USING btree (stored_at);
CREATE INDEX rollout_cohort_cohort ON public.rollout_cohort USING btree (cohort, rollout);
CREATE INDEX rollout_device_device ON public.rollout_device USING btree (device);
CREATE INDEX rollout_device_outcome_at ON public.rollout_device USING btree (rollout, outcome_at) WHERE (outcome IS NOT NULL);
CREATE INDEX rollout_device_position ON public.rollout_device USING btree (rollout, "position");
CREATE INDEX rollout_device_undecided ON public.rollout_device USING btree (rollout, reported_at) WHERE (state <> ALL (ARRAY['committed'::text, 'failed'::text, 'rolled_back'::text]));
CREATE INDEX rollout_live ON public.rollout USING btree (state, sequence) WHERE (state = ANY (ARRAY['scheduled'::text, 'running'::text, 'paused'::text]));
CREATE UNIQUE INDEX rollout_wave_one_open ON public.rollout_wave USING btree (rollout) WHERE (state = 'open'::text);
ALTER TABLE ONLY public.assignment
    ADD CONSTRAINT assignment_device_fkey FOREIGN KEY (device) REFERENCES public.device(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.cohort_member
    ADD CONSTRAINT cohort_member_cohort_fkey FOREIGN KEY (cohort) REFERENCES public.cohort(name) ON DELETE CASCADE;
ALTER TABLE ONLY public.cohort_member
    ADD CONSTRAINT cohort_member_device_fkey FOREIGN KEY (device) REFERENCES public.device(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.command
    ADD CONSTRAINT command_device_fkey FOREIGN KEY (device) REFERENCES public.device(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.contact
    ADD CONSTRAINT contact_device_fkey FOREIGN KEY (device) REFERENCES public.device(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.device_log
    ADD CONSTRAINT device_log_device_fkey FOREIGN KEY (device) REFERENCES public.device(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.device_version
    ADD CONSTRAINT device_version_device_fkey FOREIGN KEY (device) REFERENCES public.device(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.manifest
    ADD CONSTRAINT manifest_cohort_fkey FOREIGN KEY (cohort) REFERENCES public.cohort(name) ON DELETE CASCADE;
ALTER TABLE ONLY public.release
    ADD CONSTRAINT release_sha256_fkey FOREIGN KEY (sha256) REFERENCES public.artifact(sha256);
ALTER TABLE ONLY public.report
    ADD CONSTRAINT report_device_fkey FOREIGN KEY (device) REFERENCES public.device(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.rollout_cohort
    ADD CONSTRAINT rollout_cohort_cohort_fkey FOREIGN KEY (cohort) REFERENCES public.cohort(name);
ALTER TABLE ONLY public.rollout_cohort
    ADD CONSTRAINT rollout_cohort_rollout_fkey FOREIGN KEY (rollout) REFERENCES public.rollout(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.rollout_device
    ADD CONSTRAINT rollout_device_device_fkey FOREIGN KEY (device) REFERENCES public.device(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.rollout_device
    ADD CONSTRAINT rollout_device_rollout_fkey FOREIGN KEY (rollout) REFERENCES public.rollout(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.rollout
    ADD CONSTRAINT rollout_release FOREIGN KEY (release, version) REFERENCES public.release(name, version);
ALTER TABLE ONLY public.rollout
    ADD CONSTRAINT rollout_revert_of_fkey FOREIGN KEY (revert_of) REFERENCES public.rollout(id);
ALTER TABLE ONLY public.rollout_wave
    ADD CONSTRAINT rollout_wave_rollout_fkey FOREIGN KEY (rollout) REFERENCES public.rollout(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.transfer
    ADD CONSTRAINT transfer_device_fkey FOREIGN KEY (device) REFERENCES public.device(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.transfer
    ADD CONSTRAINT transfer_rollout_fkey FOREIGN KEY (rollout) REFERENCES public.rollout(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.transfer_sum
    ADD CONSTRAINT transfer_sum_rollout_fkey FOREIGN KEY (rollout) REFERENCES public.rollout(id) ON DELETE CASCADE;
