package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// deviceColumns and scanDevice belong together.
const deviceColumns = `
	d.id, d.bucket, d.model, d.hardware, d.region, d.customer, d.time_zone, d.labels, d.polling_seconds, d.revision,
	ARRAY(SELECT cohort FROM cohort_member WHERE device = d.id ORDER BY cohort),
	coalesce(a.version, 0), coalesce(c.connected, false), coalesce(c.node, ''), coalesce(c.mode, ''), coalesce(c.agent, ''),
	coalesce(c.check_in_ms, 0), c.first_contact, c.last_contact, c.last_check_in, c.heartbeat::text,
	(SELECT jsonb_object_agg(component, version) FROM device_version WHERE device = d.id)`

const deviceJoins = ` FROM device d LEFT JOIN contact c ON c.device = d.id LEFT JOIN assignment a ON a.device = d.id `

func scanDevice(row pgx.CollectableRow) (d fleet.Device, err error) {
	var first, last, checkIn *time.Time
	var heartbeat *string
	err = row.Scan(&d.ID, &d.Bucket, &d.Model, &d.Hardware, &d.Region, &d.Customer, &d.TimeZone, &d.Labels, &d.PollingSeconds, &d.Revision,
		&d.Cohorts, &d.AssignmentVersion, &d.Connected, &d.Node, &d.Mode, &d.Agent, &d.CheckInMillis, &first, &last, &checkIn, &heartbeat, &d.Versions)
	d.FirstContact, d.LastContact, d.LastCheckIn = moment(first), moment(last), moment(checkIn)
	if heartbeat != nil {
		d.Heartbeat = []byte(*heartbeat)
	}
	return d, err
}

// Device reads one device, with its targets and install states.
func (s *Store) Device(ctx context.Context, id string) (d fleet.Device, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		d, err = deployedDevice(ctx, tx, id)
		return err
	})
	return d, err
}

func deployedDevice(ctx context.Context, tx pgx.Tx, id string) (fleet.Device, error) {
	d, err := readDevice(ctx, tx, id)
	if err != nil {
		return d, err
	}
	found := []fleet.Device{d}
	err = deployments(ctx, tx, found)
	return found[0], err
}

func readDevice(ctx context.Context, q querier, id string) (fleet.Device, error) {
	rows, err := q.Query(ctx, `SELECT`+deviceColumns+deviceJoins+`WHERE d.id = $1`, id)
	if err != nil {
		return fleet.Device{}, fmt.Errorf("device %s: %w", id, err)
	}
	d, err := pgx.CollectExactlyOneRow(rows, scanDevice)
	return d, absent(err, "device", id)
}

// Devices lists devices by id, with their targets and install states.
func (s *Store) Devices(ctx context.Context, f fleet.DeviceFilter, p Page) ([]fleet.Device, string, error) {
	if err := f.Validate(); err != nil {
		return nil, "", err
	}
	var after string
	limit, err := p.start(&after)
	if err != nil {
		return nil, "", err
	}
	query, args, err := deviceQuery(f, after, limit+1)
	if err != nil {
		return nil, "", err
	}
	var devices []fleet.Device
	err = s.view(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		if devices, err = pgx.CollectRows(rows, scanDevice); err != nil {
			return err
		}
		return deployments(ctx, tx, devices)
	})
	if err != nil {
		return nil, "", fmt.Errorf("list devices: %w", err)
	}
	devices, next := cut(devices, limit, func(d fleet.Device) []any { return []any{d.ID} })
	return devices, next, nil
}

// deviceQuery writes only the conditions that stand, so that PostgreSQL plans
// each combination for itself. The ids are found first, from indexes alone
// (cohort_member's and device_version's keys), and the rest is read for one
// page only.
func deviceQuery(f fleet.DeviceFilter, after string, limit int) (string, []any, error) {
	var args []any
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	from, id := "device d", "d.id"
	where := []string{}
	if f.Cohort != "" {
		from, id = "cohort_member m", "m.device"
		where = append(where, "m.cohort = "+arg(f.Cohort))
	}
	if f.Model+f.Hardware+f.Region+f.Customer != "" && f.Cohort != "" {
		from += " JOIN device d ON d.id = m.device"
	}
	for _, c := range []struct{ column, value string }{
		{"model", f.Model}, {"hardware", f.Hardware}, {"region", f.Region}, {"customer", f.Customer},
	} {
		if c.value != "" {
			where = append(where, "d."+c.column+" = "+arg(c.value))
		}
	}
	if f.Component != "" || f.Version != "" || f.Below != "" {
		component := f.Component
		if component == "" {
			component = topics.DefaultComponent
		}
		from += " JOIN device_version v ON v.device = " + id
		where = append(where, "v.component = "+arg(component))
		if f.Version != "" {
			where = append(where, "v.version = "+arg(f.Version))
		}
		if f.Below != "" {
			key, err := fleet.VersionKey(fleet.FullVersion(f.Below))
			if err != nil {
				return "", nil, err
			}
			where = append(where, "v.sort_key < "+arg(key))
		}
	}
	if f.State != "" || f.Rollout != "" {
		condition := "EXISTS (SELECT FROM rollout_device o JOIN rollout r ON r.id = o.rollout WHERE o.device = " + id
		if f.State != "" {
			condition += " AND o.state = " + arg(string(f.State))
		}
		if f.Rollout != "" {
			condition += " AND r.id = " + arg(f.Rollout)
		} else {
			condition += " AND r.state IN ('running', 'paused')"
		}
		where = append(where, condition+")")
	}
	if f.Connected != nil {
		condition := "EXISTS (SELECT FROM contact c WHERE c.device = " + id + " AND c.connected)"
		if !*f.Connected {
			condition = "NOT " + condition
		}
		where = append(where, condition)
	}
	where = append(where, id+" > "+arg(after))
	query := "WITH page AS (SELECT " + id + " AS id FROM " + from + " WHERE " + strings.Join(where, " AND ") +
		" ORDER BY " + id + " LIMIT " + arg(limit) + ") SELECT" + deviceColumns +
		" FROM page JOIN device d ON d.id = page.id LEFT JOIN contact c ON c.device = d.id LEFT JOIN assignment a ON a.device = d.id ORDER BY d.id"
	return query, args, nil
}

// PutDevice sets what operators say about a device, with the revision that the
// caller read. Revision 0 creates it (before its first contact): ErrConflict
// if it is there.
func (s *Store) PutDevice(ctx context.Context, by fleet.Actor, id string, a fleet.DeviceAttributes, revision int64) (d fleet.Device, created bool, err error) {
	if err := fleet.CheckDeviceID("/id", id); err != nil {
		return d, false, err
	}
	if err := a.Validate(""); err != nil {
		return d, false, err
	}
	err = s.change(ctx, func(tx pgx.Tx) error {
		if err := lockMembership(ctx, tx, false); err != nil {
			return err
		}
		created = revision == 0
		query := `
			UPDATE device SET region = $3, customer = $4, time_zone = $5, labels = $6, polling_seconds = $7, revision = revision + 1
			WHERE id = $1 AND revision = $8 AND $2::integer >= 0`
		args := []any{id, topics.Bucket(id), a.Region, a.Customer, a.TimeZone, labels(a), a.PollingSeconds, revision}
		if created {
			query = `
				INSERT INTO device (id, bucket, region, customer, time_zone, labels, polling_seconds) VALUES ($1, $2, $3, $4, $5, $6, $7)
				ON CONFLICT DO NOTHING`
			args = args[:7]
		}
		tag, err := tx.Exec(ctx, query, args...)
		if err != nil {
			return fmt.Errorf("put device %s: %w", id, err)
		}
		if tag.RowsAffected() == 0 {
			if created {
				return fmt.Errorf("device %s exists: %w", id, fleet.ErrConflict)
			}
			if _, err := readDevice(ctx, tx, id); err != nil {
				return err
			}
			return fmt.Errorf("device %s: %w", id, fleet.ErrStale)
		}
		if d, err = readDevice(ctx, tx, id); err != nil {
			return err
		}
		if err := s.assignCohorts(ctx, tx, []fleet.Device{d}); err != nil {
			return err
		}
		action := "device.put"
		if created {
			action = "device.create"
		}
		if err := record(ctx, tx, by, action, "device/"+id, revision, d.Revision, nil); err != nil {
			return err
		}
		d, err = deployedDevice(ctx, tx, id)
		return err
	})
	return d, created, err
}

func labels(a fleet.DeviceAttributes) map[string]string {
	if a.Labels == nil {
		return map[string]string{}
	}
	return a.Labels
}

// ImportDevice is one device of an import.
type ImportDevice struct {
	ID string
	fleet.DeviceAttributes
}

// MaxImport is how many devices one import may have.
const MaxImport = 10_000

// ImportDevices creates devices or replaces the attributes of those that
// exist, all or none. Its cost grows with the number of devices: an assignment
// is signed for each.
func (s *Store) ImportDevices(ctx context.Context, by fleet.Actor, devices []ImportDevice) (created, updated int, err error) {
	if len(devices) == 0 || len(devices) > MaxImport {
		return 0, 0, fleet.Invalid("/devices", "must have 1 to %d devices", MaxImport)
	}
	seen := make(map[string]bool, len(devices))
	for i, d := range devices {
		at := fmt.Sprintf("/devices/%d", i)
		if err := fleet.CheckDeviceID(at+"/id", d.ID); err != nil {
			return 0, 0, err
		}
		if seen[d.ID] {
			return 0, 0, fleet.Invalid(at+"/id", "%q stands twice", d.ID)
		}
		seen[d.ID] = true
		if err := d.Validate(at); err != nil {
			return 0, 0, err
		}
	}
	err = s.change(ctx, func(tx pgx.Tx) error {
		created, updated = 0, 0
		if earlier, err := claimKey(ctx, tx, by, "import"); err != nil || earlier != "" {
			return err
		}
		if err := lockMembership(ctx, tx, false); err != nil {
			return err
		}
		ids := make([]string, 0, len(devices))
		batch := &pgx.Batch{}
		for _, d := range sortedBy(devices, func(d ImportDevice) string { return d.ID }) {
			ids = append(ids, d.ID)
			batch.Queue(`
				INSERT INTO device AS d (id, bucket, region, customer, time_zone, labels, polling_seconds) VALUES ($1, $2, $3, $4, $5, $6, $7)
				ON CONFLICT (id) DO UPDATE SET region = $3, customer = $4, time_zone = $5, labels = $6, polling_seconds = $7, revision = d.revision + 1
				RETURNING d.revision = 1`,
				d.ID, topics.Bucket(d.ID), d.Region, d.Customer, d.TimeZone, labels(d.DeviceAttributes), d.PollingSeconds).
				QueryRow(func(row pgx.Row) error {
					var isNew bool
					if err := row.Scan(&isNew); err != nil {
						return err
					}
					if isNew {
						created++
					} else {
						updated++
					}
					return nil
				})
		}
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("import devices: %w", err)
		}
		if err := s.reassign(ctx, tx, ids); err != nil {
			return err
		}
		return record(ctx, tx, by, "device.import", "devices", 0, 0, map[string]any{"created": created, "updated": updated, "first": ids[0], "last": ids[len(ids)-1]})
	})
	return created, updated, err
}

// reassign is assignCohorts for ids, in pieces; each gets a new assignment.
func (s *Store) reassign(ctx context.Context, tx pgx.Tx, ids []string) error {
	for len(ids) > 0 {
		n := min(len(ids), 1000)
		devices, err := readAttributes(ctx, tx, ids[:n])
		if err != nil {
			return err
		}
		if err := s.assignCohorts(ctx, tx, devices); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// readAttributes reads what selectors look at.
func readAttributes(ctx context.Context, tx pgx.Tx, ids []string) ([]fleet.Device, error) {
	rows, err := tx.Query(ctx, `
		SELECT id, bucket, model, hardware, region, customer, time_zone, labels FROM device WHERE id = ANY($1) ORDER BY id`, ids)
	if err != nil {
		return nil, fmt.Errorf("read devices: %w", err)
	}
	return pgx.CollectRows(rows, scanAttributes)
}

func scanAttributes(row pgx.CollectableRow) (d fleet.Device, err error) {
	err = row.Scan(&d.ID, &d.Bucket, &d.Model, &d.Hardware, &d.Region, &d.Customer, &d.TimeZone, &d.Labels)
	return d, err
}

// DeviceHistory lists what a device reported, newest first.
func (s *Store) DeviceHistory(ctx context.Context, id string, p Page) ([]fleet.Report, string, error) {
	if _, err := readDevice(ctx, s.pool, id); err != nil {
		return nil, "", err
	}
	epoch, sequence := int64(1<<62), int64(0)
	limit, err := p.start(&epoch, &sequence)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.pool.Query(ctx, `
		SELECT device, rollout, cohort, component, release, revision, state, reason, detail, from_version, running, target,
			attempt, epoch, sequence, at, stored_at
		FROM report WHERE device = $1 AND (epoch, sequence) < ($2, $3)
		ORDER BY epoch DESC, sequence DESC LIMIT $4`, id, epoch, sequence, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("history of device %s: %w", id, err)
	}
	reports, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r fleet.Report, err error) {
		err = row.Scan(&r.Device, &r.Rollout, &r.Cohort, &r.Component, &r.Release, &r.Revision, &r.State, &r.Reason, &r.Detail,
			&r.From, &r.Running, &r.Target, &r.Attempt, &r.Epoch, &r.Sequence, &r.At, &r.Stored)
		r.At, r.Stored = r.At.UTC(), r.Stored.UTC()
		return r, err
	})
	if err != nil {
		return nil, "", fmt.Errorf("history of device %s: %w", id, err)
	}
	reports, next := cut(reports, limit, func(r fleet.Report) []any { return []any{r.Epoch, r.Sequence} })
	return reports, next, nil
}

// DeviceLog is a piece of a device's log.
type DeviceLog struct {
	Epoch, Sequence int64
	Rollout         string
	Source, Text    string
	At, Stored      time.Time
}

// DeviceLogs lists what a device logged, newest first.
func (s *Store) DeviceLogs(ctx context.Context, id string, p Page) ([]DeviceLog, string, error) {
	if _, err := readDevice(ctx, s.pool, id); err != nil {
		return nil, "", err
	}
	epoch, sequence := int64(1<<62), int64(0)
	limit, err := p.start(&epoch, &sequence)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.pool.Query(ctx, `
		SELECT epoch, sequence, rollout, source, text, at, stored_at FROM device_log
		WHERE device = $1 AND (epoch, sequence) < ($2, $3) ORDER BY epoch DESC, sequence DESC LIMIT $4`, id, epoch, sequence, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("logs of device %s: %w", id, err)
	}
	logs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[DeviceLog])
	if err != nil {
		return nil, "", fmt.Errorf("logs of device %s: %w", id, err)
	}
	logs, next := cut(logs, limit, func(l DeviceLog) []any { return []any{l.Epoch, l.Sequence} })
	return logs, next, nil
}
