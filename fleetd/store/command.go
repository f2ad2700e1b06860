package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// CreateCommand signs a command for one device and sends it off. It is of no
// use after ttl.
func (s *Store) CreateCommand(ctx context.Context, by fleet.Actor, device string, action topics.CommandAction, rollout string, ttl time.Duration) (c fleet.Command, err error) {
	if s.options.Signer == nil {
		return c, errNoSigner
	}
	if ttl < time.Second || ttl > 30*24*time.Hour {
		return c, fleet.Invalid("/expires", "must be from 1s to 720h")
	}
	err = s.change(ctx, func(tx pgx.Tx) error {
		id := fleet.NewCommandID()
		earlier, err := claimKey(ctx, tx, by, id)
		if err != nil {
			return err
		}
		if earlier != "" {
			c, err = readCommand(ctx, tx, earlier)
			return err
		}
		var exists bool
		if err := tx.QueryRow(ctx, `SELECT true FROM device WHERE id = $1 FOR NO KEY UPDATE`, device).Scan(&exists); err != nil {
			return absent(err, "device", device)
		}
		now, err := txNow(ctx, tx)
		if err != nil {
			return err
		}
		var previous int64
		if err := tx.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM command WHERE device = $1`, device).Scan(&previous); err != nil {
			return fmt.Errorf("create command: %w", err)
		}
		body := topics.Command{
			Schema: topics.Schema, Kind: string(topics.KindCommand), TrustDomain: s.options.TrustDomain, Device: device,
			Version: fleet.NextVersion(previous, now), Issued: now.Truncate(time.Second), ID: id, Action: action, Rollout: rollout,
		}
		if err := body.Validate(); err != nil {
			return fleet.Invalid("/action", "%v", err)
		}
		signed, err := s.options.Signer.SignCommand(body, now.Add(ttl))
		if err != nil {
			return fmt.Errorf("sign command: %w", err)
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO command (id, device, version, action, rollout, signed, created_by, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			id, device, body.Version, string(action), rollout, signed, by.Name, now.Add(ttl))
		if err != nil {
			return fmt.Errorf("create command: %w", err)
		}
		if err := enqueueOne(ctx, tx, topics.KindCommand, id, body.Version); err != nil {
			return err
		}
		if err := record(ctx, tx, by, "command.create", "device/"+device, 0, 0, map[string]any{"command": id, "action": action, "rollout": rollout}); err != nil {
			return err
		}
		c, err = readCommand(ctx, tx, id)
		return err
	})
	return c, err
}

// Command reads one command.
func (s *Store) Command(ctx context.Context, id string) (fleet.Command, error) {
	return readCommand(ctx, s.pool, id)
}

func readCommand(ctx context.Context, q querier, id string) (c fleet.Command, err error) {
	var acked *time.Time
	err = q.QueryRow(ctx, `
		SELECT id, device, version, action, rollout, created_at, created_by, expires_at, acked_at FROM command WHERE id = $1`, id).
		Scan(&c.ID, &c.Device, &c.Version, &c.Action, &c.Rollout, &c.CreatedAt, &c.CreatedBy, &c.ExpiresAt, &acked)
	c.CreatedAt, c.ExpiresAt, c.AckedAt = c.CreatedAt.UTC(), c.ExpiresAt.UTC(), moment(acked)
	return c, absent(err, "command", id)
}
