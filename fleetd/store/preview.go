package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
)

// PreviewRollout reads what a preview of a rollout is made of, but for what only the
// artifacts themselves say: as if it started now, with the devices that it has still to
// move. Its cost grows with the number of members.
func (s *Store) PreviewRollout(ctx context.Context, id string) (in fleet.PreviewInput, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		in = fleet.PreviewInput{}
		if in.Rollout, err = readRollout(ctx, tx, id); err != nil {
			return err
		}
		r := in.Rollout
		if in.Release, err = readRelease(ctx, tx, r.Release, r.Version); err != nil {
			return err
		}
		if in.Sources, err = deltaSources(ctx, tx, r, in.Release); err != nil {
			return err
		}
		if in.Deltas, err = deltaIndex(ctx, tx, in.Release.SHA256); err != nil {
			return err
		}
		// One that was never seen may be of any model.
		err = tx.QueryRow(ctx, `
			SELECT count(*), count(*) FILTER (WHERE canary) FROM (
				SELECT m.device, bool_or(m.cohort = $2) AS canary
				FROM cohort_member m JOIN device d ON d.id = m.device
				WHERE m.cohort = ANY($1) AND (d.model = '' OR d.model = ANY($3) AND (cardinality($4::text[]) = 0 OR d.hardware = ANY($4)))
					AND NOT EXISTS (SELECT FROM device_version v WHERE v.device = m.device AND v.component = $5)
				GROUP BY m.device) x`,
			r.AllCohorts(), r.CanaryCohort, in.Release.Models, nonNil(in.Release.Hardware), r.Component).Scan(&in.Unknown, &in.UnknownCanary)
		if err != nil {
			return fmt.Errorf("count the unknown devices of %s: %w", id, err)
		}
		err = tx.QueryRow(ctx, `
			SELECT count(*), count(*) FILTER (WHERE canary) FROM (
				SELECT m.device, bool_or(m.cohort = $2) AS canary
				FROM cohort_member m JOIN device d ON d.id = m.device
				JOIN rollout_device o ON o.rollout = $7 AND o.device = m.device
				JOIN device_version v ON v.device = m.device AND v.component = $5 AND v.version = $6
				WHERE m.cohort = ANY($1) AND d.model = ANY($3) AND (cardinality($4::text[]) = 0 OR d.hardware = ANY($4))
				GROUP BY m.device) x`,
			r.AllCohorts(), r.CanaryCohort, in.Release.Models, nonNil(in.Release.Hardware), r.Component, r.Version, id).Scan(&in.Done, &in.DoneCanary)
		if err != nil {
			return fmt.Errorf("count the devices that %s has moved: %w", id, err)
		}
		return nil
	})
	return in, err
}
