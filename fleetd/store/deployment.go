package store

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
)

// deployments fills in what devices are told to run and the newest step that
// they reported. It is worked out when it is asked for, so that neither a wave
// nor a pause has to touch a row per device. Its cost grows with the number of
// these devices and of the rollouts in their cohorts' manifests.
func deployments(ctx context.Context, tx pgx.Tx, devices []fleet.Device) error {
	at := make(map[string]int, len(devices))
	cohorts := map[string]bool{}
	for i, d := range devices {
		at[d.ID] = i
		devices[i].Installs = map[string]fleet.Install{}
		for _, c := range d.Cohorts {
			cohorts[c] = true
		}
	}
	planned, err := plannedFor(ctx, tx, slices.Sorted(maps.Keys(cohorts)))
	if err != nil {
		return err
	}
	for i, d := range devices {
		devices[i].Targets = fleet.Targets(d, planned)
	}
	rows, err := tx.Query(ctx, `
		SELECT DISTINCT ON (o.device, r.component) o.device, r.component, r.id, r.version, o.state, o.reason, o.attempt, o.reported_at
		FROM rollout_device o JOIN rollout r ON r.id = o.rollout
		WHERE o.device = ANY($1) ORDER BY o.device, r.component, o.epoch DESC, o.sequence DESC`, slices.Sorted(maps.Keys(at)))
	if err != nil {
		return fmt.Errorf("read install states: %w", err)
	}
	var device, component string
	var in fleet.Install
	_, err = pgx.ForEachRow(rows, []any{&device, &component, &in.Rollout, &in.Version, &in.State, &in.Reason, &in.Attempt, &in.At}, func() error {
		in.At = in.At.UTC()
		devices[at[device]].Installs[component] = in
		return nil
	})
	if err != nil {
		return fmt.Errorf("read install states: %w", err)
	}
	return nil
}
