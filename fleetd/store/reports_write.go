package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// The statements of a batch of reports. Each reads its rows from one JSON
// array.
const (
	// First, and in order of device: two replicas with reports of the same
	// devices wait for each other here, and deadlock nowhere.
	writeContacts = `
		INSERT INTO contact AS c (device, first_contact, last_contact)
		SELECT device, first, last FROM json_to_recordset($1) AS n (device text, first timestamptz, last timestamptz)
		ORDER BY device COLLATE "C"
		ON CONFLICT (device) DO UPDATE SET last_contact = excluded.last_contact WHERE c.last_contact < excluded.last_contact`

	writeReports = `
		INSERT INTO report (device, epoch, sequence, rollout, cohort, component, release, revision, attempt, state, reason, detail,
			from_version, running, target, at, stored_at)
		SELECT device, epoch, sequence, rollout, cohort, component, release, revision, attempt, state, coalesce(reason, ''), coalesce(detail, ''),
			"from", running, target, at, stored_at
		FROM json_to_recordset($1) AS n (device text, epoch bigint, sequence bigint, rollout text, cohort text, component text, release text,
			revision bigint, attempt integer, state text, reason text, detail text, "from" text, running text, target text,
			at timestamptz, stored_at timestamptz)
		ON CONFLICT DO NOTHING RETURNING device, epoch, sequence`

	// Only for rollouts that exist and have started, and of members: what else
	// a device says stands in its history and counts nowhere.
	writeStandings = `
		INSERT INTO rollout_device AS o (rollout, device, position, canary, model, hardware, region, from_version, state, reason, detail,
			revision, epoch, attempt, sequence, reported_at, until_at, silent_after)
		SELECT r.id, d.id, (d.bucket - r.rollout_offset + 1000000) % 1000000,
			EXISTS (SELECT FROM cohort_member WHERE cohort = r.canary_cohort AND device = d.id),
			d.model, d.hardware, d.region, n."from", n.state, coalesce(n.reason, ''), coalesce(n.detail, ''),
			n.revision, n.epoch, n.attempt, n.sequence, clock_timestamp(), n.until,
			` + silentAfter + `
		FROM json_to_recordset($1) AS n (rollout text, device text, "from" text, state text, reason text, detail text,
			revision bigint, epoch bigint, attempt integer, sequence bigint, until timestamptz)
		JOIN rollout r ON r.id = n.rollout JOIN device d ON d.id = n.device JOIN contact c ON c.device = n.device
		WHERE r.started_at IS NOT NULL AND EXISTS (
			SELECT FROM rollout_cohort rc JOIN cohort_member m ON m.cohort = rc.cohort WHERE rc.rollout = r.id AND m.device = d.id)
		ON CONFLICT (rollout, device) DO UPDATE SET
			state = excluded.state, reason = excluded.reason, detail = excluded.detail, revision = excluded.revision,
			epoch = excluded.epoch, attempt = excluded.attempt, sequence = excluded.sequence,
			reported_at = excluded.reported_at, until_at = excluded.until_at, from_version = excluded.from_version
		WHERE (o.epoch, o.sequence) < (excluded.epoch, excluded.sequence)`

	writeOutcomes = `
		UPDATE rollout_device o SET outcome = n.state, outcome_reason = coalesce(n.reason, ''), outcome_at = clock_timestamp(),
			outcome_epoch = n.epoch, outcome_attempt = n.attempt, outcome_sequence = n.sequence
		FROM json_to_recordset($1) AS n (rollout text, device text, state text, reason text, epoch bigint, attempt integer, sequence bigint)
		WHERE o.rollout = n.rollout AND o.device = n.device
			AND (o.outcome_epoch, o.outcome_sequence) < (n.epoch, n.sequence)`

	writeVersions = `
		INSERT INTO device_version AS v (device, component, version, sort_key, epoch, sequence)
		SELECT device, component, version, sort_key, epoch, sequence
		FROM json_to_recordset($1) AS n (device text, component text, version text, sort_key text, epoch bigint, sequence bigint)
		ON CONFLICT (device, component) DO UPDATE SET
			version = excluded.version, sort_key = excluded.sort_key, epoch = excluded.epoch, sequence = excluded.sequence
		WHERE (v.epoch, v.sequence) < (excluded.epoch, excluded.sequence)`

	writeBeats = `
		UPDATE contact c SET last_check_in = coalesce(n.check_in, c.last_check_in),
			check_in_ms = CASE WHEN n.check_in IS NULL THEN c.check_in_ms ELSE n.millis END,
			mode = n.mode, polling_seconds = n.polling, agent = n.agent, heartbeat = n.heartbeat, epoch = n.epoch, sequence = n.sequence, assignment_held = n.held
		FROM json_to_recordset($1) AS n (device text, check_in timestamptz, millis bigint, mode text, polling bigint, agent text, heartbeat jsonb,
			epoch bigint, sequence bigint, held bigint)
		WHERE c.device = n.device AND (c.epoch, c.sequence) < (n.epoch, n.sequence) RETURNING c.device`

	// A connect belongs to a higher number than any before; a disconnect to
	// that of its connect, or comes before it.
	writePresences = `
		UPDATE contact c SET connected = n.connected, connection = n.connection, node = n.node
		FROM json_to_recordset($1) AS n (device text, connected boolean, connection bigint, node text)
		WHERE c.device = n.device AND (c.connection < n.connection OR c.connection = n.connection AND c.connected AND NOT n.connected)
		RETURNING c.device`

	writeLogs = `
		INSERT INTO device_log (device, epoch, sequence, rollout, source, text, at, stored_at)
		SELECT device, epoch, sequence, coalesce(rollout, ''), source, text, at, stored_at
		FROM json_to_recordset($1) AS n (device text, epoch bigint, sequence bigint, rollout text, source text, text text,
			at timestamptz, stored_at timestamptz)
		ON CONFLICT DO NOTHING RETURNING device, epoch, sequence`

	writeAcks = `
		UPDATE command c SET acked_at = clock_timestamp()
		FROM json_to_recordset($1) AS n (device text, command text)
		WHERE c.id = n.command AND c.device = n.device AND c.acked_at IS NULL`
)

// write stores the batch, in one exchange with PostgreSQL.
func (u *uplink) write(ctx context.Context, tx pgx.Tx) error {
	batch := &pgx.Batch{}
	var failed error
	// queue adds a statement, unless it has nothing to do; read, if not nil,
	// gets what it returns.
	queue := func(n int, rows any, statement string, read func(pgx.Rows) error) {
		if n == 0 {
			return
		}
		text, err := json.Marshal(rows)
		failed = errors.Join(failed, err)
		q := batch.Queue(statement, string(text))
		if read != nil {
			q.Query(read)
		}
	}
	queue(len(u.contacts.rows), u.contacts.rows, writeContacts, nil)
	queue(len(u.reports), u.reports, writeReports, u.stored(len(u.reports), func(i int) (numbered, int) {
		r := u.reports[i]
		return numbered{r.Device, r.Epoch, r.Sequence}, r.at
	}))
	queue(len(u.standings.rows), u.standings.rows, writeStandings, nil)
	queue(len(u.transfers.rows), u.transfers.rows, writeTransfers, nil)
	queue(len(u.outcomes.rows), u.outcomes.rows, writeOutcomes, nil)
	queue(len(u.versions.rows), u.versions.rows, writeVersions, nil)
	queue(len(u.beats.rows), u.beats.rows, writeBeats, u.changed(func(device string) int {
		return u.beats.rows[u.beats.at[device]].at
	}))
	queue(len(u.presences.rows), u.presences.rows, writePresences, u.changed(func(device string) int {
		return u.presences.rows[u.presences.at[device]].at
	}))
	queue(len(u.logs), u.logs, writeLogs, u.stored(len(u.logs), func(i int) (numbered, int) {
		l := u.logs[i]
		return numbered{l.Device, l.Epoch, l.Sequence}, l.at
	}))
	queue(len(u.refusals.rows), u.refusals.rows, writeRefusals, u.changed(func(id string) int {
		return u.refusals.rows[u.refusals.at[id]].At
	}))
	queue(len(u.acks), u.acks, writeAcks, nil)
	if failed != nil {
		return fmt.Errorf("encode reports: %w", failed)
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	for _, r := range u.reports {
		if result := &u.results[r.at]; result.Outcome == Applied && r.State.Terminal() && r.PeerFaults != nil {
			result.PeerFaults = *r.PeerFaults // an earlier one of the attempt has said less
		}
	}
	return nil
}

// numbered is the identity of a report or a log.
type numbered struct {
	device          string
	epoch, sequence int64
}

// stored notes which of n rows a statement says it has stored; of equal ones
// in the batch, the first.
func (u *uplink) stored(n int, row func(i int) (numbered, int)) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		at := make(map[numbered]int, n)
		for i := n - 1; i >= 0; i-- {
			key, index := row(i)
			at[key] = index
		}
		var key numbered
		_, err := pgx.ForEachRow(rows, []any{&key.device, &key.epoch, &key.sequence}, func() error {
			u.results[at[key]].Outcome = Applied
			return nil
		})
		return err
	}
}

// changed notes whose row, by device or other key, a statement says it has
// changed.
func (u *uplink) changed(at func(key string) int) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		var key string
		_, err := pgx.ForEachRow(rows, []any{&key}, func() error {
			u.results[at(key)].Outcome = Applied
			return nil
		})
		return err
	}
}
