package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// signManifests builds and signs the manifests of cohorts as the transaction
// sees them, stores them and puts them into the outbox. It takes the cohorts'
// row locks, in order of name. What does not fit (see fitting) is
// refused, and with it the change.
func (s *Store) signManifests(ctx context.Context, tx pgx.Tx, cohorts []string) error {
	if len(cohorts) == 0 {
		return nil
	}
	floor := make(map[string]int64, len(cohorts))
	for _, c := range cohorts {
		floor[c] = 0
	}
	return s.signManifestsAbove(ctx, tx, floor)
}

// signManifestsAbove is signManifests with a version for each cohort that the
// new one has to exceed, for a broker that is ahead.
func (s *Store) signManifestsAbove(ctx context.Context, tx pgx.Tx, floor map[string]int64) error {
	if s.options.Signer == nil {
		return errNoSigner
	}
	cohorts := make([]string, 0, len(floor))
	for c := range floor {
		cohorts = append(cohorts, c)
	}
	sort.Strings(cohorts)
	// NO KEY: devices that register refer to the cohort meanwhile.
	rows, err := tx.Query(ctx, `SELECT name FROM cohort WHERE name = ANY($1) ORDER BY name FOR NO KEY UPDATE`, cohorts)
	if err != nil {
		return fmt.Errorf("lock cohorts: %w", err)
	}
	if cohorts, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return fmt.Errorf("lock cohorts: %w", err)
	}
	// Everything below is read after the locks, so it holds what others
	// committed while this waited.
	now, err := txNow(ctx, tx)
	if err != nil {
		return err
	}
	pin, err := imagePin(ctx, tx)
	if err != nil {
		return err
	}
	planned, err := plannedFor(ctx, tx, cohorts)
	if err != nil {
		return err
	}
	previous := map[string]int64{}
	rows, err = tx.Query(ctx, `SELECT cohort, version FROM manifest WHERE cohort = ANY($1)`, cohorts)
	if err != nil {
		return fmt.Errorf("read manifest versions: %w", err)
	}
	var name string
	var version int64
	if _, err := pgx.ForEachRow(rows, []any{&name, &version}, func() error { previous[name] = version; return nil }); err != nil {
		return fmt.Errorf("read manifest versions: %w", err)
	}
	for _, cohort := range cohorts {
		version := fleet.NextVersion(max(previous[cohort], floor[cohort]), now)
		m, signed, err := s.fitting(fleet.ManifestInput{
			TrustDomain: s.options.TrustDomain, Cohort: cohort, Rollouts: planned[cohort], Pin: pin, Version: version, Now: now,
		})
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO manifest (cohort, version, signed, issued_at, refresh_at) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (cohort) DO UPDATE SET version = $2, signed = $3, issued_at = $4, refresh_at = $5, published_at = NULL`,
			cohort, version, signed, m.Issued, refreshAt(now))
		if err != nil {
			return fmt.Errorf("store manifest of cohort %s: %w", cohort, err)
		}
		if err := enqueueOne(ctx, tx, topics.KindManifest, cohort, version); err != nil {
			return err
		}
	}
	return nil
}

// fitting builds and signs a manifest. When it is too large, completed rollouts
// make room, the oldest of each component first: a fleet with a long history
// must not be one that cannot open a wave.
func (s *Store) fitting(in fleet.ManifestInput) (topics.Manifest, []byte, error) {
	for in.Completed = fleet.MaxCompleted; ; in.Completed-- {
		m, err := fleet.BuildManifest(in)
		if err != nil {
			return m, nil, err
		}
		signed, err := s.options.Signer.SignManifest(m, in.Now.Add(fleet.MetadataLifetime))
		large := errors.Is(err, topics.ErrTooLarge) || len(signed) > topics.MaxManifest
		switch {
		case large && in.Completed > 1:
		case large:
			return m, nil, fmt.Errorf("%w: the manifest of cohort %s would have more than %d bytes: it has %d rollouts, cancel some",
				fleet.ErrConflict, in.Cohort, topics.MaxManifest, len(m.Entries))
		case err != nil:
			return m, nil, fmt.Errorf("sign manifest of cohort %s: %w", in.Cohort, err)
		default:
			return m, signed, nil
		}
	}
}

// refreshAt is when metadata signed now is to be signed anew: at half its life,
// spread over a tenth of it so that they do not all come at once.
func refreshAt(now time.Time) time.Time {
	return now.Add(fleet.MetadataLifetime/2 - rand.N(fleet.MetadataLifetime/10))
}

func imagePin(ctx context.Context, q querier) (*topics.SnapshotPin, error) {
	var pin topics.SnapshotPin
	err := q.QueryRow(ctx, `SELECT version, length, sha256 FROM image_pin`).Scan(&pin.Version, &pin.Length, &pin.SHA256)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read image pin: %w", err)
	}
	return &pin, nil
}

// ImagePin is the snapshot of the image repository that manifests pin.
func (s *Store) ImagePin(ctx context.Context) (topics.SnapshotPin, error) {
	pin, err := imagePin(ctx, s.pool)
	if err == nil && pin == nil {
		err = fmt.Errorf("image pin: %w", fleet.ErrNotFound)
	}
	if err != nil {
		return topics.SnapshotPin{}, err
	}
	return *pin, nil
}

// plannedFor reads the rollouts that the manifests of cohorts hold, by cohort.
func plannedFor(ctx context.Context, tx pgx.Tx, cohorts []string) (map[string][]fleet.Planned, error) {
	rows, err := tx.Query(ctx, `
		SELECT cohort, rollout FROM (
			SELECT rc.cohort, rc.rollout, r.state, row_number() OVER (
				PARTITION BY rc.cohort, r.component, r.state = 'completed' ORDER BY r.sequence DESC) AS newest
			FROM rollout_cohort rc JOIN rollout r ON r.id = rc.rollout
			WHERE rc.cohort = ANY($1) AND r.state IN ('running', 'paused', 'completed')) x
		WHERE state <> 'completed' OR newest <= $2`, cohorts, fleet.MaxCompleted)
	if err != nil {
		return nil, fmt.Errorf("read rollouts of cohorts: %w", err)
	}
	of := map[string][]string{}
	var ids []string
	var cohort, id string
	if _, err := pgx.ForEachRow(rows, []any{&cohort, &id}, func() error {
		of[cohort] = append(of[cohort], id)
		ids = append(ids, id)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read rollouts of cohorts: %w", err)
	}
	rollouts, err := readRollouts(ctx, tx, `WHERE r.id = ANY($1)`, ids)
	if err != nil {
		return nil, err
	}
	planned := map[string]fleet.Planned{}
	for _, r := range rollouts {
		release, err := readRelease(ctx, tx, r.Release, r.Version)
		if err != nil {
			return nil, err
		}
		p := fleet.Planned{Rollout: r, Release: release}
		if release.Index != nil {
			if p.Deltas, err = deltaIndex(ctx, tx, release.SHA256); err != nil {
				return nil, err
			}
		}
		planned[r.ID] = p
	}
	out := map[string][]fleet.Planned{}
	for cohort, ids := range of {
		for _, id := range ids {
			out[cohort] = append(out[cohort], planned[id])
		}
	}
	return out, nil
}

// CohortManifest is the newest signed manifest of a cohort.
func (s *Store) CohortManifest(ctx context.Context, cohort string) (signed []byte, version int64, err error) {
	m, err := s.SignedOne(ctx, topics.KindManifest, cohort)
	return m.Bytes, m.Version, err
}

// RefreshManifests signs anew up to limit manifests whose half-life is over,
// and reports how many that were.
func (s *Store) RefreshManifests(ctx context.Context, limit int) (n int, err error) {
	err = s.change(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT cohort FROM manifest WHERE refresh_at <= now() ORDER BY refresh_at LIMIT $1`, limit)
		if err != nil {
			return fmt.Errorf("find manifests to refresh: %w", err)
		}
		due, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("find manifests to refresh: %w", err)
		}
		n = len(due)
		return s.signManifests(ctx, tx, due)
	})
	return n, err
}

// Supersede signs a manifest or assignment anew with a version above floor,
// because the broker holds that one: PostgreSQL was restored from an older
// backup. What is stored and higher by now is only published again.
func (s *Store) Supersede(ctx context.Context, kind topics.Kind, id string, floor int64) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		table, key, object := "manifest", "cohort", "cohort/"+id
		if kind == topics.KindAssignment {
			table, key, object = "assignment", "device", "device/"+id
		}
		var version int64
		// The lock of its owner, as for every signature.
		if _, err := tx.Exec(ctx, `SELECT FROM `+key+` WHERE `+owner(kind)+` = $1 FOR NO KEY UPDATE`, id); err != nil {
			return fmt.Errorf("supersede %s %s: %w", kind, id, err)
		}
		err := tx.QueryRow(ctx, `SELECT version FROM `+table+` WHERE `+key+` = $1`, id).Scan(&version)
		if err != nil {
			return absent(err, string(kind), id)
		}
		if version > floor {
			return enqueueOne(ctx, tx, kind, id, version)
		}
		above := map[string]int64{id: floor}
		if kind == topics.KindAssignment {
			err = s.signAssignmentsAbove(ctx, tx, above)
		} else {
			err = s.signManifestsAbove(ctx, tx, above)
		}
		if err != nil {
			return err
		}
		return record(ctx, tx, fleet.Actor{Name: "reconciler"}, string(kind)+".supersede", object, 0, 0, map[string]any{"broker": floor, "stored": version})
	})
}

// owner is the key column of the table cohort or device.
func owner(kind topics.Kind) string {
	if kind == topics.KindAssignment {
		return "id"
	}
	return "name"
}

// querier is what a pool and a transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}
