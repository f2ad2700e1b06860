package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
)

// record writes an audit row in the transaction of the change. A revision of 0
// means that the object did not exist before, or is gone after.
func record(ctx context.Context, tx pgx.Tx, by fleet.Actor, action, object string, before, after int64, detail map[string]any) error {
	if detail == nil {
		detail = map[string]any{}
	}
	text, err := json.Marshal(detail)
	if err != nil {
		return fmt.Errorf("audit %s: %w", action, err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO audit (actor, action, object, before_revision, after_revision, request_id, detail)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, by.Name, action, object, before, after, by.RequestID, text)
	if err != nil {
		return fmt.Errorf("audit %s: %w", action, err)
	}
	return nil
}

// RecordAudit writes an audit row for an act that changed nothing in the store,
// such as a refusal.
func (s *Store) RecordAudit(ctx context.Context, by fleet.Actor, action, object string, detail map[string]any) error {
	return s.change(ctx, func(tx pgx.Tx) error { return record(ctx, tx, by, action, object, 0, 0, detail) })
}

// AuditFilter selects audit rows. Absent fields admit all.
type AuditFilter struct{ Object, Actor string }

// Audit lists the trail, newest first.
func (s *Store) Audit(ctx context.Context, f AuditFilter, p Page) ([]fleet.AuditEntry, string, error) {
	return s.audit(ctx, f, p, true)
}

// RolloutEvents lists what happened to a rollout, oldest first.
func (s *Store) RolloutEvents(ctx context.Context, id string, p Page) ([]fleet.AuditEntry, string, error) {
	var exists bool
	if err := s.pool.QueryRow(ctx, `SELECT true FROM rollout WHERE id = $1`, id).Scan(&exists); err != nil {
		return nil, "", absent(err, "rollout", id)
	}
	return s.audit(ctx, AuditFilter{Object: "rollout/" + id}, p, false)
}

func (s *Store) audit(ctx context.Context, f AuditFilter, p Page, newestFirst bool) ([]fleet.AuditEntry, string, error) {
	if err := checkFilters(map[string]string{"/object": f.Object, "/actor": f.Actor}); err != nil {
		return nil, "", err
	}
	var after int64
	limit, err := p.start(&after)
	if err != nil {
		return nil, "", err
	}
	order, compare := "ASC", ">"
	if newestFirst {
		order, compare = "DESC", "<"
		if p.Cursor == "" {
			after = 1<<63 - 1
		}
	}
	rows, err := s.pool.Query(ctx, `
		SELECT id, at, actor, action, object, before_revision, after_revision, request_id, detail::text
		FROM audit
		WHERE ($1 = '' OR object = $1) AND ($2 = '' OR actor = $2) AND id `+compare+` $3
		ORDER BY id `+order+` LIMIT $4`, f.Object, f.Actor, after, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("read audit: %w", err)
	}
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e fleet.AuditEntry, err error) {
		err = row.Scan(&e.ID, &e.At, &e.Actor, &e.Action, &e.Object, &e.Before, &e.After, &e.RequestID, &e.Detail)
		e.At = e.At.UTC()
		return e, err
	})
	if err != nil {
		return nil, "", fmt.Errorf("read audit: %w", err)
	}
	entries, next := cut(entries, limit, func(e fleet.AuditEntry) []any { return []any{e.ID} })
	return entries, next, nil
}
