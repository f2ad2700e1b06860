package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// readRollouts reads rollouts with their cohorts and waves. where may use r.
func readRollouts(ctx context.Context, q querier, where string, args ...any) ([]fleet.Rollout, error) {
	rows, err := q.Query(ctx, `
		SELECT r.id, r.revision, r.kind, r.state, r.component, r.release, r.version, r.canary_cohort, r.from_constraint,
			r.priority, r.sequence, r.rollout_offset, r.policy::text, r.note, r.reason, coalesce(r.revert_of, ''), r.created_by, r.created_at,
			r.start_at, r.started_at, r.paused_at, r.resumed_at, r.finished_at,
			ARRAY(SELECT cohort FROM rollout_cohort WHERE rollout = r.id AND NOT canary ORDER BY place)
		FROM rollout r `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read rollouts: %w", err)
	}
	rollouts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r fleet.Rollout, err error) {
		var policy string
		var start, started, paused, resumed, finished *time.Time
		err = row.Scan(&r.ID, &r.Revision, &r.Kind, &r.State, &r.Component, &r.Release, &r.Version, &r.CanaryCohort, &r.From,
			&r.Priority, &r.Sequence, &r.Offset, &policy, &r.Note, &r.Reason, &r.RevertOf, &r.CreatedBy, &r.CreatedAt,
			&start, &started, &paused, &resumed, &finished, &r.Cohorts)
		if err != nil {
			return r, err
		}
		r.CreatedAt, r.StartAt, r.StartedAt = r.CreatedAt.UTC(), moment(start), moment(started)
		r.PausedAt, r.ResumedAt, r.FinishedAt = moment(paused), moment(resumed), moment(finished)
		return r, json.Unmarshal([]byte(policy), &r.Policy)
	})
	if err != nil {
		return nil, fmt.Errorf("read rollouts: %w", err)
	}
	at := map[string]int{}
	ids := make([]string, len(rollouts))
	for i, r := range rollouts {
		at[r.ID], ids[i] = i, r.ID
	}
	rows, err = q.Query(ctx, `
		SELECT rollout, index, share_ppm, cohort, state, start_ppm, threshold_ppm, opened_at, opens_at, closed_at, spread_seconds, soak_seconds, sample_at, members
		FROM rollout_wave WHERE rollout = ANY($1) ORDER BY rollout, index`, ids)
	if err != nil {
		return nil, fmt.Errorf("read waves: %w", err)
	}
	type located struct {
		rollout string
		wave    fleet.Wave
	}
	waves, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l located, err error) {
		var share, spread int64
		var soak float64
		var opened, opens, closed, sample *time.Time
		w := &l.wave
		err = row.Scan(&l.rollout, &w.Index, &share, &w.Cohort, &w.State, &w.Start, &w.Threshold, &opened, &opens, &closed, &spread, &soak, &sample, &w.Members)
		w.Percent = float64(share) / 10_000
		w.Spread, w.Soak = fleet.Duration(spread)*fleet.Duration(time.Second), fleet.Duration(soak*float64(time.Second))
		w.OpenedAt, w.OpensAt, w.ClosedAt, w.SampleAt = moment(opened), moment(opens), moment(closed), moment(sample)
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("read waves: %w", err)
	}
	for _, l := range waves {
		r := &rollouts[at[l.rollout]]
		r.Waves = append(r.Waves, l.wave)
	}
	return rollouts, nil
}

func readRollout(ctx context.Context, q querier, id string) (fleet.Rollout, error) {
	found, err := readRollouts(ctx, q, `WHERE r.id = $1`, id)
	if err == nil && len(found) == 0 {
		err = pgx.ErrNoRows
	}
	if err != nil {
		return fleet.Rollout{}, absent(err, "rollout", id)
	}
	return found[0], nil
}

// Rollout reads one rollout, its waves with counts by state and the open one
// with what its gate waits for.
func (s *Store) Rollout(ctx context.Context, id string) (r fleet.Rollout, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		r, err = readRollout(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := describeStones(ctx, tx, &r); err != nil {
			return err
		}
		if err := s.describeDeltas(ctx, tx, &r); err != nil {
			return err
		}
		if err := describeTransfers(ctx, tx, &r); err != nil {
			return err
		}
		return describeWaves(ctx, tx, &r)
	})
	return r, err
}

// RolloutFilter selects rollouts. Absent fields admit all.
type RolloutFilter struct {
	State   fleet.State
	Release string // name
	Cohort  string
}

// Rollouts lists rollouts, the newest first, their waves without counts.
func (s *Store) Rollouts(ctx context.Context, f RolloutFilter, p Page) ([]fleet.Rollout, string, error) {
	if err := fleet.CheckState("/state", f.State); err != nil {
		return nil, "", err
	}
	if err := checkFilters(map[string]string{"/release": f.Release, "/cohort": f.Cohort}); err != nil {
		return nil, "", err
	}
	before := int64(1<<63 - 1)
	limit, err := p.start(&before)
	if err != nil {
		return nil, "", err
	}
	rollouts, err := readRollouts(ctx, s.pool, `
		WHERE ($1 = '' OR r.state = $1) AND ($2 = '' OR r.release = $2) AND r.sequence < $3
			AND ($5 = '' OR EXISTS (SELECT FROM rollout_cohort WHERE rollout = r.id AND cohort = $5))
		ORDER BY r.sequence DESC LIMIT $4`, string(f.State), f.Release, before, limit+1, f.Cohort)
	if err != nil {
		return nil, "", err
	}
	rollouts, next := cut(rollouts, limit, func(r fleet.Rollout) []any { return []any{r.Sequence} })
	return rollouts, next, nil
}

// CreateRollout makes a draft. Devices know nothing of it before it starts.
func (s *Store) CreateRollout(ctx context.Context, by fleet.Actor, spec fleet.RolloutSpec) (r fleet.Rollout, err error) {
	if err := spec.Validate(); err != nil {
		return r, err
	}
	policy, err := spec.PolicySpec.Resolve(topics.EntryUpdate)
	if err != nil {
		return r, err
	}
	err = s.change(ctx, func(tx pgx.Tx) error {
		id := fleet.NewRolloutID()
		earlier, err := claimKey(ctx, tx, by, id)
		if err != nil {
			return err
		}
		if earlier != "" {
			if r, err = readRollout(ctx, tx, earlier); err != nil {
				return err
			}
			return describeStones(ctx, tx, &r)
		}
		release, err := s.checkRollout(ctx, tx, spec)
		if err != nil {
			return err
		}
		draft := fleet.Rollout{
			ID: id, Kind: topics.EntryUpdate, RolloutSpec: spec, Component: release.Component, Offset: fleet.NewOffset(),
			Policy: policy, CreatedBy: by.Name, Waves: fleet.NewWaves(policy, spec.CanaryCohort),
		}
		if err := insertRollout(ctx, tx, draft); err != nil {
			return err
		}
		if err := record(ctx, tx, by, "rollout.create", "rollout/"+id, 0, 1, map[string]any{"release": spec.Release, "version": spec.Version, "cohorts": spec.AllCohorts()}); err != nil {
			return err
		}
		if r, err = readRollout(ctx, tx, id); err != nil {
			return err
		}
		return describeStones(ctx, tx, &r)
	})
	return r, err
}

func insertRollout(ctx context.Context, tx pgx.Tx, r fleet.Rollout) error {
	policy, err := toJSON(r.Policy)
	if err != nil {
		return fmt.Errorf("create rollout: %w", err)
	}
	var revertOf *string
	if r.RevertOf != "" {
		revertOf = &r.RevertOf
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO rollout (id, kind, component, release, version, canary_cohort, from_constraint, priority, rollout_offset, policy,
			silent_seconds, silent_factor, note, revert_of, created_by, start_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
		r.ID, r.Kind, r.Component, r.Release, r.Version, r.CanaryCohort, r.From, r.Priority, r.Offset, policy,
		time.Duration(r.Policy.Silent.AtLeast).Seconds(), r.Policy.Silent.Factor, r.Note, revertOf, r.CreatedBy, optional(r.StartAt))
	if err != nil {
		return fmt.Errorf("create rollout: %w", err)
	}
	return insertParts(ctx, tx, r)
}

// insertParts writes a rollout's cohorts and waves.
func insertParts(ctx context.Context, tx pgx.Tx, r fleet.Rollout) error {
	batch := &pgx.Batch{}
	for i, cohort := range r.AllCohorts() {
		batch.Queue(`INSERT INTO rollout_cohort (rollout, cohort, place, canary) VALUES ($1, $2, $3, $4)`, r.ID, cohort, i, cohort == r.CanaryCohort)
	}
	for _, w := range r.Waves {
		share := fleet.WavePolicy{Percent: w.Percent}.Share()
		batch.Queue(`INSERT INTO rollout_wave (rollout, index, share_ppm, cohort, spread_seconds, soak_seconds) VALUES ($1, $2, $3, $4, $5, $6)`,
			r.ID, w.Index, share, w.Cohort, w.Spread.Seconds(), time.Duration(w.Soak).Seconds())
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("store rollout %s: %w", r.ID, err)
	}
	return nil
}

// checkRollout checks a spec against the catalogue and the cohorts. A cohort of
// several models is as good as one of the release's only: each device looks
// whether the release is for it. But one of its devices must be of a model and
// hardware revision that the release is for, as far as they are known: devices
// that were never seen say nothing for it or against it.
func (s *Store) checkRollout(ctx context.Context, tx pgx.Tx, spec fleet.RolloutSpec) (fleet.Release, error) {
	release, err := readRelease(ctx, tx, spec.Release, spec.Version)
	if err != nil {
		if isNotFound(err) {
			err = fleet.Invalid("/release", "there is no release %s %s", spec.Release, spec.Version)
		}
		return release, err
	}
	if err := checkFloor(ctx, tx, release, "/release/version"); err != nil {
		return release, err
	}
	for i, cohort := range spec.AllCohorts() {
		pointer := fmt.Sprintf("/cohorts/%d", i)
		if spec.CanaryCohort != "" {
			if pointer = fmt.Sprintf("/cohorts/%d", i-1); i == 0 {
				pointer = "/canary_cohort"
			}
		}
		var exists, known, fits bool
		err := tx.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM cohort WHERE name = $1),
				EXISTS (SELECT FROM cohort_member m JOIN device d ON d.id = m.device WHERE m.cohort = $1 AND d.model <> ''),
				EXISTS (SELECT FROM cohort_member m JOIN device d ON d.id = m.device WHERE m.cohort = $1
					AND d.model = ANY($2) AND (cardinality($3::text[]) = 0 OR d.hardware = ANY($3)))`,
			cohort, release.Models, nonNil(release.Hardware)).Scan(&exists, &known, &fits)
		switch {
		case err != nil:
			return release, fmt.Errorf("check cohort %s: %w", cohort, err)
		case !exists:
			return release, fleet.Invalid(pointer, "there is no cohort %q", cohort)
		case known && !fits:
			text := "has no device of model " + strings.Join(release.Models, ", ")
			if len(release.Hardware) > 0 {
				text += " and hardware " + strings.Join(release.Hardware, ", ")
			}
			return release, fleet.Invalid(pointer, "cohort %s %s, for which release %s %s is", cohort, text, release.Name, release.Version)
		}
	}
	return release, nil
}

func nonNil[V any](list []V) []V {
	if list == nil {
		return []V{}
	}
	return list
}

// checkFloor refuses a release below the security floor that the release role
// has signed for its component and one of its models.
func checkFloor(ctx context.Context, tx pgx.Tx, release fleet.Release, pointer string) error {
	rows, err := tx.Query(ctx, `
		SELECT DISTINCT security_floor FROM release WHERE component = $1 AND models && $2 AND security_floor <> ''`, release.Component, release.Models)
	if err != nil {
		return fmt.Errorf("read security floors: %w", err)
	}
	floors, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read security floors: %w", err)
	}
	for _, floor := range floors {
		order, err := topics.CompareVersions(release.Version, floor)
		if err != nil {
			return err
		}
		if order < 0 {
			return fleet.Invalid(pointer, "%s is below the security floor %s of component %s", release.Version, floor, release.Component)
		}
	}
	return nil
}

// UpdateRollout replaces the spec of a draft.
func (s *Store) UpdateRollout(ctx context.Context, by fleet.Actor, id string, revision int64, spec fleet.RolloutSpec) (r fleet.Rollout, err error) {
	if err := spec.Validate(); err != nil {
		return r, err
	}
	policy, err := spec.PolicySpec.Resolve(topics.EntryUpdate)
	if err != nil {
		return r, err
	}
	err = s.change(ctx, func(tx pgx.Tx) error {
		release, err := s.checkRollout(ctx, tx, spec)
		if err != nil {
			return err
		}
		text, err := toJSON(policy)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			UPDATE rollout SET revision = revision + 1, component = $3, release = $4, version = $5, canary_cohort = $6,
				from_constraint = $7, priority = $8, policy = $9, note = $10, start_at = $11, silent_seconds = $12, silent_factor = $13
			WHERE id = $1 AND revision = $2 AND state = 'draft'`,
			id, revision, release.Component, spec.Release, spec.Version, spec.CanaryCohort, spec.From, spec.Priority, text, spec.Note, optional(spec.StartAt),
			time.Duration(policy.Silent.AtLeast).Seconds(), policy.Silent.Factor)
		if err != nil {
			return fmt.Errorf("update rollout %s: %w", id, err)
		}
		if tag.RowsAffected() == 0 {
			return refusal(ctx, tx, id, revision, func(r fleet.Rollout) error {
				return fmt.Errorf("rollout %s is %s, only a draft can be changed: %w", id, r.State, fleet.ErrTransition)
			})
		}
		for _, table := range []string{"rollout_cohort", "rollout_wave"} {
			if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE rollout = $1`, id); err != nil {
				return fmt.Errorf("update rollout %s: %w", id, err)
			}
		}
		changed := fleet.Rollout{ID: id, RolloutSpec: spec, Waves: fleet.NewWaves(policy, spec.CanaryCohort)}
		if err := insertParts(ctx, tx, changed); err != nil {
			return err
		}
		if err := record(ctx, tx, by, "rollout.update", "rollout/"+id, revision, revision+1, nil); err != nil {
			return err
		}
		if r, err = readRollout(ctx, tx, id); err != nil {
			return err
		}
		return describeStones(ctx, tx, &r)
	})
	return r, err
}

// refusal says why a guarded UPDATE of a rollout matched no row.
func refusal(ctx context.Context, tx pgx.Tx, id string, revision int64, otherwise func(fleet.Rollout) error) error {
	r, err := readRollout(ctx, tx, id)
	if err != nil {
		return err
	}
	if r.Revision != revision {
		return fmt.Errorf("rollout %s has revision %d, not %d: %w", id, r.Revision, revision, fleet.ErrStale)
	}
	return otherwise(r)
}

// RolloutDevice is where a device stands in a rollout.
type RolloutDevice struct {
	Device   string
	Wave     int // -1: in none that has opened
	Position int64
	State    topics.State
	Reason   string
	Detail   string
	Attempt  int
	From     string
	Outcome  topics.State // of the newest attempt that ended; absent: none yet
	// ReportedAt is when the newest report was applied.
	ReportedAt time.Time
}

// RolloutDevices lists devices that reported on a rollout, by id. wave nil and
// state "" admit all.
func (s *Store) RolloutDevices(ctx context.Context, id string, wave *int, state topics.State, p Page) ([]RolloutDevice, string, error) {
	if err := fleet.CheckDeviceState("/state", state); err != nil {
		return nil, "", err
	}
	r, err := readRollout(ctx, s.pool, id)
	if err != nil {
		return nil, "", err
	}
	if wave != nil && !slices.ContainsFunc(r.Waves, func(w fleet.Wave) bool { return w.Index == *wave }) {
		return nil, "", fleet.Invalid("/wave", "the rollout has no wave %d", *wave)
	}
	var after string
	limit, err := p.start(&after)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.pool.Query(ctx, `
		SELECT o.device, coalesce(w.index, -1), o.position, o.state, o.reason, o.detail, o.attempt, o.from_version, coalesce(o.outcome, ''), o.reported_at
		FROM rollout_device o
		LEFT JOIN rollout_wave w ON w.rollout = o.rollout AND w.state <> 'pending'
			AND CASE WHEN w.cohort <> '' THEN o.canary ELSE NOT o.canary AND o.position >= w.start_ppm AND o.position < w.threshold_ppm END
		WHERE o.rollout = $1 AND o.device > $2 AND ($3 = '' OR o.state = $3) AND ($4::integer IS NULL OR w.index = $4)
		ORDER BY o.device LIMIT $5`, id, after, string(state), wave, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("devices of rollout %s: %w", id, err)
	}
	devices, err := pgx.CollectRows(rows, pgx.RowToStructByPos[RolloutDevice])
	if err != nil {
		return nil, "", fmt.Errorf("devices of rollout %s: %w", id, err)
	}
	for i := range devices {
		devices[i].ReportedAt = devices[i].ReportedAt.UTC()
	}
	devices, next := cut(devices, limit, func(d RolloutDevice) []any { return []any{d.Device} })
	return devices, next, nil
}
