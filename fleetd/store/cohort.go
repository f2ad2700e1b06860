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

const cohortColumns = `
	c.name, c.description, c.selector, c.devices, c.revision, c.created_at,
	(SELECT count(*) FROM cohort_member WHERE cohort = c.name), coalesce(m.version, 0), m.published_at
	FROM cohort c LEFT JOIN manifest m ON m.cohort = c.name `

func scanCohort(row pgx.CollectableRow) (c fleet.Cohort, err error) {
	var published *time.Time
	err = row.Scan(&c.Name, &c.Description, &c.Selector, &c.Devices, &c.Revision, &c.CreatedAt, &c.Members, &c.ManifestVersion, &published)
	c.CreatedAt, c.PublishedAt = c.CreatedAt.UTC(), moment(published)
	return c, err
}

// Cohort reads one cohort.
func (s *Store) Cohort(ctx context.Context, name string) (fleet.Cohort, error) {
	return readCohort(ctx, s.pool, name)
}

func readCohort(ctx context.Context, q querier, name string) (fleet.Cohort, error) {
	rows, err := q.Query(ctx, `SELECT`+cohortColumns+`WHERE c.name = $1`, name)
	if err != nil {
		return fleet.Cohort{}, fmt.Errorf("cohort %s: %w", name, err)
	}
	c, err := pgx.CollectExactlyOneRow(rows, scanCohort)
	return c, absent(err, "cohort", name)
}

// Cohorts lists cohorts by name.
func (s *Store) Cohorts(ctx context.Context, p Page) ([]fleet.Cohort, string, error) {
	var after string
	limit, err := p.start(&after)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.pool.Query(ctx, `SELECT`+cohortColumns+`WHERE c.name > $1 ORDER BY c.name LIMIT $2`, after, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list cohorts: %w", err)
	}
	cohorts, err := pgx.CollectRows(rows, scanCohort)
	if err != nil {
		return nil, "", fmt.Errorf("list cohorts: %w", err)
	}
	cohorts, next := cut(cohorts, limit, func(c fleet.Cohort) []any { return []any{c.Name} })
	return cohorts, next, nil
}

// CohortMembers lists the ids of a cohort's devices.
func (s *Store) CohortMembers(ctx context.Context, name string, p Page) ([]string, string, error) {
	if _, err := s.Cohort(ctx, name); err != nil {
		return nil, "", err
	}
	var after string
	limit, err := p.start(&after)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.pool.Query(ctx, `
		SELECT device FROM cohort_member WHERE cohort = $1 AND device > $2 ORDER BY device LIMIT $3`, name, after, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("members of cohort %s: %w", name, err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, "", fmt.Errorf("members of cohort %s: %w", name, err)
	}
	ids, next := cut(ids, limit, func(id string) []any { return []any{id} })
	return ids, next, nil
}

// CreateCohort makes a cohort, with its members, their assignments and its
// first, empty manifest. Its cost grows with the number of devices: each is
// matched, and each member gets a new assignment.
func (s *Store) CreateCohort(ctx context.Context, by fleet.Actor, spec fleet.CohortSpec) (c fleet.Cohort, err error) {
	if err := spec.Validate(); err != nil {
		return c, err
	}
	err = s.change(ctx, func(tx pgx.Tx) error {
		earlier, err := claimKey(ctx, tx, by, spec.Name)
		if err != nil {
			return err
		}
		if earlier != "" {
			c, err = readCohort(ctx, tx, earlier)
			return err
		}
		if err := lockMembership(ctx, tx, true); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO cohort (name, description, selector, devices) VALUES ($1, $2, $3, $4)`,
			spec.Name, spec.Description, spec.Selector, cohortDevices(spec))
		if sqlState(err) == uniqueViolation {
			return fmt.Errorf("cohort %s exists: %w", spec.Name, fleet.ErrConflict)
		}
		if err != nil {
			return fmt.Errorf("create cohort %s: %w", spec.Name, err)
		}
		if err := s.fill(ctx, tx, spec); err != nil {
			return err
		}
		if err := s.signManifests(ctx, tx, []string{spec.Name}); err != nil {
			return err
		}
		if err := record(ctx, tx, by, "cohort.create", "cohort/"+spec.Name, 0, 1, map[string]any{"selector": spec.Selector, "devices": len(spec.Devices)}); err != nil {
			return err
		}
		c, err = readCohort(ctx, tx, spec.Name)
		return err
	})
	return c, err
}

func cohortDevices(spec fleet.CohortSpec) []string {
	if spec.Selector != "" {
		return nil
	}
	if spec.Devices == nil {
		return []string{}
	}
	return spec.Devices
}

// UpdateCohort replaces what operators say about the cohort named in spec.
// Members of an active rollout that no longer match stay until it is over.
func (s *Store) UpdateCohort(ctx context.Context, by fleet.Actor, revision int64, spec fleet.CohortSpec) (c fleet.Cohort, err error) {
	if err := spec.Validate(); err != nil {
		return c, err
	}
	err = s.change(ctx, func(tx pgx.Tx) error {
		if err := lockMembership(ctx, tx, true); err != nil {
			return err
		}
		before, err := readCohort(ctx, tx, spec.Name)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			UPDATE cohort SET description = $3, selector = $4, devices = $5, revision = revision + 1
			WHERE name = $1 AND revision = $2`, spec.Name, revision, spec.Description, spec.Selector, cohortDevices(spec))
		if err != nil {
			return fmt.Errorf("update cohort %s: %w", spec.Name, err)
		}
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("cohort %s: %w", spec.Name, fleet.ErrStale)
		}
		if before.Selector != spec.Selector || !slices.Equal(before.Devices, spec.Devices) {
			if err := s.fill(ctx, tx, spec); err != nil {
				return err
			}
		}
		detail := map[string]any{"selector": spec.Selector, "devices": len(spec.Devices), "selector_before": before.Selector, "devices_before": len(before.Devices)}
		if err := record(ctx, tx, by, "cohort.update", "cohort/"+spec.Name, revision, revision+1, detail); err != nil {
			return err
		}
		c, err = readCohort(ctx, tx, spec.Name)
		return err
	})
	return c, err
}

// DeleteCohort removes a cohort that no rollout ever named. Its members get
// new assignments.
func (s *Store) DeleteCohort(ctx context.Context, by fleet.Actor, name string, revision int64) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		if err := lockMembership(ctx, tx, true); err != nil {
			return err
		}
		if _, err := readCohort(ctx, tx, name); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT device FROM cohort_member WHERE cohort = $1`, name)
		if err != nil {
			return fmt.Errorf("delete cohort %s: %w", name, err)
		}
		members, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("delete cohort %s: %w", name, err)
		}
		tag, err := tx.Exec(ctx, `DELETE FROM cohort WHERE name = $1 AND revision = $2`, name, revision)
		if sqlState(err) == foreignKeyViolation {
			return fmt.Errorf("cohort %s is named by a rollout: %w", name, fleet.ErrConflict)
		}
		if err != nil {
			return fmt.Errorf("delete cohort %s: %w", name, err)
		}
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("cohort %s: %w", name, fleet.ErrStale)
		}
		if _, err := tx.Exec(ctx, `DELETE FROM outbox WHERE kind = 'manifest' AND id = $1`, name); err != nil {
			return fmt.Errorf("delete cohort %s: %w", name, err)
		}
		if err := s.signAssignments(ctx, tx, members); err != nil {
			return err
		}
		return record(ctx, tx, by, "cohort.delete", "cohort/"+name, revision, 0, nil)
	})
}

// matchChunk is how many devices are matched at a time.
const matchChunk = 5000

// fill makes the members of a cohort those that spec describes, and signs the
// assignments of those that came or went. The caller holds the membership lock
// exclusively.
func (s *Store) fill(ctx context.Context, tx pgx.Tx, spec fleet.CohortSpec) error {
	wanted, err := s.match(ctx, tx, spec)
	if err != nil {
		return err
	}
	changed := map[string]bool{}
	note := func(rows pgx.Rows, err error) error {
		if err != nil {
			return fmt.Errorf("members of cohort %s: %w", spec.Name, err)
		}
		var id string
		_, err = pgx.ForEachRow(rows, []any{&id}, func() error { changed[id] = true; return nil })
		if err != nil {
			return fmt.Errorf("members of cohort %s: %w", spec.Name, err)
		}
		return nil
	}
	pinned := `EXISTS (SELECT FROM rollout_cohort rc JOIN rollout r ON r.id = rc.rollout WHERE rc.cohort = $1 AND r.state IN ('running', 'paused'))`
	if err := note(tx.Query(ctx, `
		DELETE FROM cohort_member WHERE cohort = $1 AND device <> ALL($2) AND NOT `+pinned+` RETURNING device`, spec.Name, wanted)); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		UPDATE cohort_member SET leaving = device <> ALL($2) WHERE cohort = $1 AND leaving <> (device <> ALL($2))`, spec.Name, wanted); err != nil {
		return fmt.Errorf("members of cohort %s: %w", spec.Name, err)
	}
	if err := note(tx.Query(ctx, `
		INSERT INTO cohort_member (cohort, device, bucket)
		SELECT $1, id, bucket FROM device WHERE id = ANY($2)
		ON CONFLICT DO NOTHING RETURNING device`, spec.Name, wanted)); err != nil {
		return err
	}
	ids := make([]string, 0, len(changed))
	for id := range changed {
		ids = append(ids, id)
	}
	var crowded []string
	rows, err := tx.Query(ctx, `
		SELECT device FROM cohort_member WHERE device = ANY($1) GROUP BY device HAVING count(*) > $2 ORDER BY device LIMIT 3`, ids, topics.MaxCohorts)
	if err == nil {
		crowded, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return fmt.Errorf("members of cohort %s: %w", spec.Name, err)
	}
	if len(crowded) > 0 {
		pointer := "/selector"
		if spec.Selector == "" {
			pointer = "/devices"
		}
		return fleet.Invalid(pointer, "would put devices into more than %d cohorts: %s", topics.MaxCohorts, strings.Join(crowded, ", "))
	}
	return s.signAssignments(ctx, tx, ids)
}

// match lists the devices that spec describes. Ids of a list that are not
// known yet become members when they are.
func (s *Store) match(ctx context.Context, tx pgx.Tx, spec fleet.CohortSpec) ([]string, error) {
	if spec.Selector == "" {
		return cohortDevices(spec), nil
	}
	selector, err := fleet.ParseSelector(spec.Selector)
	if err != nil {
		return nil, err
	}
	wanted := []string{}
	for after, more := "", true; more; {
		rows, err := tx.Query(ctx, `
			SELECT id, bucket, model, hardware, region, customer, time_zone, labels FROM device
			WHERE id > $1 ORDER BY id LIMIT $2`, after, matchChunk)
		if err != nil {
			return nil, fmt.Errorf("match cohort %s: %w", spec.Name, err)
		}
		devices, err := pgx.CollectRows(rows, scanAttributes)
		if err != nil {
			return nil, fmt.Errorf("match cohort %s: %w", spec.Name, err)
		}
		for _, d := range devices {
			if selector.Matches(d) {
				wanted = append(wanted, d.ID)
			}
			after = d.ID
		}
		more = len(devices) == matchChunk
	}
	return wanted, nil
}

// sortedBy is a sorted copy.
func sortedBy[T any](in []T, key func(T) string) []T {
	out := slices.Clone(in)
	slices.SortFunc(out, func(a, b T) int { return strings.Compare(key(a), key(b)) })
	return out
}

// toJSON is for columns of type jsonb.
func toJSON(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}
