package store

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/topics"
)

// DeadLetter keeps a record that consumer ("registry" or "telemetry") can never
// store, and raises an alert about its device. The same again is no change.
func (s *Store) DeadLetter(ctx context.Context, consumer string, r UplinkRecord, reason string) error {
	return s.change(ctx, func(tx pgx.Tx) error { return deadLetter(ctx, tx, consumer, r, reason) })
}

func deadLetter(ctx context.Context, tx pgx.Tx, consumer string, r UplinkRecord, reason string) error {
	payload := r.Payload
	if payload == nil {
		payload = []byte{}
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO dead_letter (topic, shard, sequence, payload, stored_at, consumer, reason, region) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT DO NOTHING`, []byte(r.Topic), r.Shard, r.Sequence, bytes.Clone(payload), optional(r.Stored), consumer, storable(reason), r.region())
	if err != nil {
		return fmt.Errorf("keep dead letter: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil
	}
	// The broker lets a device publish under its own name only.
	object := "uplink"
	if name, err := topics.Parse(r.Topic); err == nil {
		object = "device/" + name.ID
	}
	return raise(ctx, tx, "dead-letter", object, fmt.Sprintf("%s can never store what it sent: %s", consumer, storable(reason)))
}

// DeadLetterEntry is a record that could not be stored.
type DeadLetterEntry struct {
	ID              int64
	At              time.Time
	Topic           string
	Shard, Sequence int64
	Payload         []byte
	Consumer        string
	Reason          string
}

// DeadLetters lists them, newest first.
func (s *Store) DeadLetters(ctx context.Context, p Page) ([]DeadLetterEntry, string, error) {
	before := int64(1<<63 - 1)
	limit, err := p.start(&before)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.pool.Query(ctx, `
		SELECT id, at, topic, shard, sequence, payload, consumer, reason FROM dead_letter WHERE id < $1 ORDER BY id DESC LIMIT $2`, before, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	letters, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d DeadLetterEntry, err error) {
		var topic []byte
		err = row.Scan(&d.ID, &d.At, &topic, &d.Shard, &d.Sequence, &d.Payload, &d.Consumer, &d.Reason)
		d.At, d.Topic = d.At.UTC(), string(topic)
		return d, err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	letters, next := cut(letters, limit, func(d DeadLetterEntry) []any { return []any{d.ID} })
	return letters, next, nil
}
