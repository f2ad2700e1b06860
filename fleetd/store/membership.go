package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// selection is a cohort as far as it decides who is in it.
type selection struct {
	name     string
	selector *fleet.Selector // nil: a list
}

// readSelections reads the cohorts with a selector.
func readSelections(ctx context.Context, tx pgx.Tx) ([]selection, error) {
	rows, err := tx.Query(ctx, `SELECT name, selector FROM cohort WHERE selector <> '' ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("read selectors: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s selection, err error) {
		var text string
		if err := row.Scan(&s.name, &text); err != nil {
			return s, err
		}
		parsed, err := fleet.ParseSelector(text)
		s.selector = &parsed
		return s, err
	})
}

// assignCohorts makes the memberships of devices what selectors and lists say,
// and signs an assignment for each of them. The caller holds the membership
// lock. A device that no longer matches but is pinned by an active rollout
// stays, marked as leaving. A device that matches more than topics.MaxCohorts
// keeps those that it has, then gets further ones by name; the rest is an
// alert.
func (s *Store) assignCohorts(ctx context.Context, tx pgx.Tx, devices []fleet.Device) error {
	if len(devices) == 0 {
		return nil
	}
	selections, err := readSelections(ctx, tx)
	if err != nil {
		return err
	}
	ids := make([]string, len(devices))
	for i, d := range devices {
		ids[i] = d.ID
	}
	listed, err := pairs(ctx, tx, `
		SELECT d, name FROM unnest($1::text[]) AS d JOIN cohort ON devices IS NOT NULL AND devices @> ARRAY[d] ORDER BY name`, ids)
	if err != nil {
		return fmt.Errorf("read cohort lists: %w", err)
	}
	current, err := memberships(ctx, tx, ids)
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	for _, d := range devices {
		wanted := slices.Clone(listed[d.ID])
		for _, c := range selections {
			if c.selector.Matches(d) {
				wanted = append(wanted, c.name)
			}
		}
		settle(batch, d, wanted, current[d.ID])
	}
	if batch.Len() > 0 {
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("store memberships: %w", err)
		}
	}
	return s.signAssignments(ctx, tx, ids)
}

// membership is a row of cohort_member.
type membership struct {
	cohort  string
	leaving bool
	pinned  bool // the cohort has an active rollout
}

func memberships(ctx context.Context, tx pgx.Tx, ids []string) (map[string][]membership, error) {
	rows, err := tx.Query(ctx, `
		SELECT m.device, m.cohort, m.leaving, EXISTS (
			SELECT FROM rollout_cohort rc JOIN rollout r ON r.id = rc.rollout
			WHERE rc.cohort = m.cohort AND r.state IN ('running', 'paused'))
		FROM cohort_member m WHERE m.device = ANY($1) ORDER BY m.device, m.cohort`, ids)
	if err != nil {
		return nil, fmt.Errorf("read memberships: %w", err)
	}
	out := map[string][]membership{}
	var device string
	var m membership
	_, err = pgx.ForEachRow(rows, []any{&device, &m.cohort, &m.leaving, &m.pinned}, func() error {
		out[device] = append(out[device], m)
		return nil
	})
	return out, err
}

// settle queues what makes the memberships of d those that are wanted.
func settle(batch *pgx.Batch, d fleet.Device, wanted []string, current []membership) {
	count := 0
	for _, m := range current {
		keep := slices.Contains(wanted, m.cohort)
		switch {
		case keep && m.leaving:
			batch.Queue(`UPDATE cohort_member SET leaving = false WHERE cohort = $1 AND device = $2`, m.cohort, d.ID)
		case !keep && m.pinned && !m.leaving:
			batch.Queue(`UPDATE cohort_member SET leaving = true WHERE cohort = $1 AND device = $2`, m.cohort, d.ID)
		case !keep && !m.pinned:
			batch.Queue(`DELETE FROM cohort_member WHERE cohort = $1 AND device = $2`, m.cohort, d.ID)
			continue
		}
		count++
	}
	for _, cohort := range wanted {
		if slices.ContainsFunc(current, func(m membership) bool { return m.cohort == cohort }) {
			continue
		}
		if count == topics.MaxCohorts {
			alert(batch, "too-many-cohorts", "device/"+d.ID,
				fmt.Sprintf("matches more than %d cohorts; left out of %s at least", topics.MaxCohorts, cohort))
			break
		}
		batch.Queue(`INSERT INTO cohort_member (cohort, device, bucket) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, cohort, d.ID, d.Bucket)
		count++
	}
}

// letGo removes those who were only held in cohorts by rollouts that are over,
// and tells them.
func (s *Store) letGo(ctx context.Context, tx pgx.Tx, cohorts []string) error {
	rows, err := tx.Query(ctx, `
		DELETE FROM cohort_member m WHERE m.cohort = ANY($1) AND m.leaving AND NOT EXISTS (
			SELECT FROM rollout_cohort rc JOIN rollout r ON r.id = rc.rollout
			WHERE rc.cohort = m.cohort AND r.state IN ('running', 'paused'))
		RETURNING m.device`, cohorts)
	if err != nil {
		return fmt.Errorf("let members go: %w", err)
	}
	gone, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("let members go: %w", err)
	}
	return s.signAssignments(ctx, tx, gone)
}

// LetGo removes members that are still held though nothing pins them any
// more: a device that stopped matching at the moment when its rollout ended.
// Each transition does that for those whom it sees; the driver calls this from
// time to time for the rest. It reports how many cohorts had some.
func (s *Store) LetGo(ctx context.Context) (n int, err error) {
	err = s.change(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT DISTINCT m.cohort FROM cohort_member m WHERE m.leaving AND NOT EXISTS (
				SELECT FROM rollout_cohort rc JOIN rollout r ON r.id = rc.rollout
				WHERE rc.cohort = m.cohort AND r.state IN ('running', 'paused'))`)
		if err != nil {
			return fmt.Errorf("find members to let go: %w", err)
		}
		cohorts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("find members to let go: %w", err)
		}
		n = len(cohorts)
		return s.letGo(ctx, tx, cohorts)
	})
	return n, err
}

func pairs(ctx context.Context, tx pgx.Tx, query string, args ...any) (map[string][]string, error) {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	var key, value string
	_, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error {
		out[key] = append(out[key], value)
		return nil
	})
	return out, err
}
