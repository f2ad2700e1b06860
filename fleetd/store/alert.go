package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
)

// Alert is a condition that an operator should see.
type Alert struct {
	ID       int64
	Revision int64 // grows with each sighting and each change
	// Kind and Object are what it is about: one alert for both.
	Kind, Object, Message string
	Count                 int64 // sightings since it is there
	FirstAt, LastAt       time.Time
	// AcknowledgedAt zero: it is open.
	AcknowledgedAt time.Time
	AcknowledgedBy string
	Note           string // of who acknowledged it
}

// AlertState selects alerts. Absent: all.
type AlertState string

// States of an alert. One that is acknowledged stays so, however often it is
// seen, until it is cleared.
const (
	AlertOpen         AlertState = "open"
	AlertAcknowledged AlertState = "acknowledged"
)

// seenAgain is what a sighting changes of an alert a that is there; the
// statement sets the message and the count.
const seenAgain = `revision = a.revision + 1, last_at = now()`

// alert queues a condition that an operator should see.
func alert(batch *pgx.Batch, kind, object, message string) {
	batch.Queue(`
		INSERT INTO alert AS a (kind, object, message) VALUES ($1, $2, $3)
		ON CONFLICT (kind, object) DO UPDATE SET message = $3, count = a.count + 1, `+seenAgain, kind, object, message)
}

// raise is alert, at once.
func raise(ctx context.Context, tx pgx.Tx, kind, object, message string) error {
	batch := &pgx.Batch{}
	alert(batch, kind, object, message)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("raise alert %s of %s: %w", kind, object, err)
	}
	return nil
}

const selectAlert = `
	SELECT id, revision, kind, object, message, count, first_at, last_at, acknowledged_at, acknowledged_by, note FROM alert`

func scanAlert(row pgx.CollectableRow) (a Alert, err error) {
	var acknowledged *time.Time
	err = row.Scan(&a.ID, &a.Revision, &a.Kind, &a.Object, &a.Message, &a.Count, &a.FirstAt, &a.LastAt, &acknowledged, &a.AcknowledgedBy, &a.Note)
	a.FirstAt, a.LastAt = a.FirstAt.UTC(), a.LastAt.UTC()
	if acknowledged != nil {
		a.AcknowledgedAt = acknowledged.UTC()
	}
	return a, err
}

// Alerts lists them by kind and object.
func (s *Store) Alerts(ctx context.Context, state AlertState, p Page) ([]Alert, string, error) {
	if state != "" && state != AlertOpen && state != AlertAcknowledged {
		return nil, "", fleet.Invalid("/state", "%q is not a state of an alert", string(state))
	}
	var kind, object string
	limit, err := p.start(&kind, &object)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.pool.Query(ctx, selectAlert+`
		WHERE (kind, object) > ($1, $2) AND ($3 = '' OR (acknowledged_at IS NULL) = ($3 = 'open'))
		ORDER BY kind, object LIMIT $4`, kind, object, string(state), limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list alerts: %w", err)
	}
	alerts, err := pgx.CollectRows(rows, scanAlert)
	if err != nil {
		return nil, "", fmt.Errorf("list alerts: %w", err)
	}
	alerts, next := cut(alerts, limit, func(a Alert) []any { return []any{a.Kind, a.Object} })
	return alerts, next, nil
}

// Alert returns one, or fleet.ErrNotFound.
func (s *Store) Alert(ctx context.Context, id int64) (a Alert, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		a, err = readAlert(ctx, tx, id)
		return err
	})
	return a, err
}

func readAlert(ctx context.Context, tx pgx.Tx, id int64) (Alert, error) {
	rows, err := tx.Query(ctx, selectAlert+` WHERE id = $1`, id)
	if err != nil {
		return Alert{}, fmt.Errorf("read alert %d: %w", id, err)
	}
	a, err := pgx.CollectExactlyOneRow(rows, scanAlert)
	if errors.Is(err, pgx.ErrNoRows) {
		return a, fmt.Errorf("alert %d: %w", id, fleet.ErrNotFound)
	}
	if err != nil {
		return a, fmt.Errorf("read alert %d: %w", id, err)
	}
	return a, nil
}

// AcknowledgeAlert says that somebody knows of it. ErrStale when it was seen
// or changed since revision.
func (s *Store) AcknowledgeAlert(ctx context.Context, by fleet.Actor, id, revision int64, note string) (a Alert, err error) {
	if err := fleet.CheckText("/note", note); err != nil {
		return a, err
	}
	err = s.changeAlert(ctx, by, id, revision, "alert.acknowledge", `
		UPDATE alert SET revision = revision + 1, acknowledged_at = clock_timestamp(), acknowledged_by = $3, note = $4 WHERE id = $1 AND revision = $2`,
		[]any{by.Name, note}, revision+1, map[string]any{"note": note}, func(tx pgx.Tx) error {
			a, err = readAlert(ctx, tx, id)
			return err
		})
	return a, err
}

// ClearAlert says that it is over. Seen again, it is a new alert. ErrStale as
// for AcknowledgeAlert.
func (s *Store) ClearAlert(ctx context.Context, by fleet.Actor, id, revision int64) error {
	return s.changeAlert(ctx, by, id, revision, "alert.clear", `DELETE FROM alert WHERE id = $1 AND revision = $2`,
		nil, 0, map[string]any{}, func(pgx.Tx) error { return nil })
}

func (s *Store) changeAlert(ctx context.Context, by fleet.Actor, id, revision int64, action, statement string, args []any, after int64,
	detail map[string]any, then func(pgx.Tx) error) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		a, err := readAlert(ctx, tx, id)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, statement, append([]any{id, revision}, args...)...)
		if err != nil {
			return fmt.Errorf("%s %d: %w", action, id, err)
		}
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("alert %d has revision %d, not %d: it was seen again or changed: %w", id, a.Revision, revision, fleet.ErrStale)
		}
		detail["kind"], detail["about"], detail["message"] = a.Kind, a.Object, a.Message
		if err := record(ctx, tx, by, action, fmt.Sprintf("alert/%d", id), revision, after, detail); err != nil {
			return err
		}
		return then(tx)
	})
}
