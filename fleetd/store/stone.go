package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
)

// describeStones says which devices of a rollout cannot take its release yet, and the way
// that leads there. They are in no wave, and no gate or breaker counts them, before they
// have passed. And whether it holds up who waits for what it brings. Its cost grows with
// the number of members that run what the release does not take.
func describeStones(ctx context.Context, tx pgx.Tx, r *fleet.Rollout) error {
	if err := findStones(ctx, tx, r); err != nil {
		return err
	}
	rollouts, err := readRollouts(ctx, tx, `
		WHERE r.component = $1 AND r.id <> $2 AND r.state IN ('scheduled', 'running', 'paused', 'completed')
			AND EXISTS (SELECT FROM rollout_cohort c WHERE c.rollout = r.id AND c.cohort = ANY($3)) ORDER BY r.sequence`,
		r.Component, r.ID, r.AllCohorts())
	if err != nil {
		return err
	}
	var others []fleet.Planned
	for _, other := range rollouts {
		release, err := readRelease(ctx, tx, other.Release, other.Version)
		if err != nil {
			return err
		}
		others = append(others, fleet.Planned{Rollout: other, Release: release})
	}
	for i, s := range r.Stones {
		if len(s.Path) == 0 {
			continue
		}
		// The one that wins.
		for _, o := range others {
			if o.Release.Path == s.Path[0].Path && (s.Rollout == "" || o.Rollout.Beats(first(others, s.Rollout))) {
				s.Rollout, s.Stays = o.Rollout.ID, o.Rollout.Beats(*r)
			}
		}
		r.Stones[i] = s
	}
	r.Warnings = r.StonesOf(others)
	return nil
}

func first(all []fleet.Planned, id string) fleet.Rollout {
	return all[slices.IndexFunc(all, func(p fleet.Planned) bool { return p.Rollout.ID == id })].Rollout
}

func findStones(ctx context.Context, tx pgx.Tx, r *fleet.Rollout) error {
	release, err := readRelease(ctx, tx, r.Release, r.Version)
	if err != nil {
		return err
	}
	if !release.Stepped() {
		return nil
	}
	keys, err := versionKeys(ctx, tx, r.Component, func(version string) (bool, error) {
		if ok, err := fleet.Eligible(r.Kind, r.From, r.Version, version); err != nil || !ok {
			return false, err
		}
		ok, err := release.Takes(version)
		return !ok, err
	})
	if err != nil || len(keys) == 0 {
		return err
	}
	rows, err := tx.Query(ctx, `
		SELECT v.version, d.model, d.hardware, count(DISTINCT d.id)
		FROM cohort_member m
		JOIN device d ON d.id = m.device
		JOIN device_version v ON v.device = m.device AND v.component = $2
		WHERE m.cohort = ANY($1) AND v.sort_key = ANY($3) AND d.model = ANY($4) AND (cardinality($5::text[]) = 0 OR d.hardware = ANY($5))
		GROUP BY v.sort_key, v.version, d.model, d.hardware ORDER BY v.sort_key, d.model, d.hardware`,
		r.AllCohorts(), r.Component, keys, release.Models, nonNil(release.Hardware))
	if err != nil {
		return fmt.Errorf("count devices before %s: %w", r.ID, err)
	}
	type group struct {
		version, model, hardware string
		devices                  int64
	}
	groups, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (g group, err error) {
		err = row.Scan(&g.version, &g.model, &g.hardware, &g.devices)
		return g, err
	})
	if err != nil || len(groups) == 0 {
		return err
	}
	rows, err = tx.Query(ctx, `SELECT`+releaseColumns+`WHERE component = $1 AND models && $2`, release.Component, release.Models)
	if err != nil {
		return fmt.Errorf("read releases of %s: %w", release.Component, err)
	}
	all, err := pgx.CollectRows(rows, scanRelease)
	if err != nil {
		return fmt.Errorf("read releases of %s: %w", release.Component, err)
	}
	for _, g := range groups {
		path := fleet.Path(all, release, g.version, g.model, g.hardware)
		// Groups of one version that go the same way are one.
		if i := slices.IndexFunc(r.Stones, func(s fleet.Stone) bool {
			return s.From == g.version && slices.EqualFunc(s.Path, path, func(a, b fleet.Release) bool { return a.Path == b.Path })
		}); i >= 0 {
			r.Stones[i].Devices += g.devices
			continue
		}
		r.Stones = append(r.Stones, fleet.Stone{From: g.version, Devices: g.devices, Path: path})
	}
	return nil
}
