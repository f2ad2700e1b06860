package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/topics"
)

// OutboxChannel is where PostgreSQL notifies when something has to go to the
// broker.
const OutboxChannel = "groundswell_outbox"

// OutboxRow is one message that has to go to a region's broker.
type OutboxRow struct {
	Region  string
	Kind    topics.Kind // manifest, assignment or command
	ID      string      // cohort, device or command id
	Topic   string
	Version int64
	Payload []byte
	// ExpiresAt is when a command is of no use any more; zero for the others,
	// which are retained.
	ExpiresAt time.Time
	Attempts  int
}

// enqueue announces versions to every region, in the transaction that made them. A
// row of an older version that still waits is replaced, and whoever has claimed it
// will find that it is not the newest any more.
func enqueue(ctx context.Context, tx pgx.Tx, kind topics.Kind, ids []string, versions []int64) error {
	batch := &pgx.Batch{}
	batch.Queue(lockRegions, regionLock)
	batch.Queue(`
		INSERT INTO outbox AS o (kind, id, region, version)
		SELECT $1, n.id, r.name, n.version FROM unnest($2::text[], $3::bigint[]) AS n (id, version)
		CROSS JOIN region r WHERE r.retired_at IS NULL ORDER BY n.id, r.name
		ON CONFLICT (kind, id, region) DO UPDATE SET
			version = excluded.version, attempts = 0, claimed_until = '-infinity', created_at = now(), error = ''
		WHERE o.version <= excluded.version`, kind, ids, versions)
	batch.Queue(`SELECT pg_notify($1, '')`, OutboxChannel)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("enqueue %d %ss: %w", len(ids), kind, err)
	}
	return nil
}

func enqueueOne(ctx context.Context, tx pgx.Tx, kind topics.Kind, id string, version int64) error {
	return enqueue(ctx, tx, kind, []string{id}, []int64{version})
}

func notify(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `SELECT pg_notify($1, '')`, OutboxChannel)
	return err
}

// ClaimOutbox takes up to limit rows of a region, of the given kinds, that nobody
// else is publishing, oldest first, for the given time: whoever claims and dies leaves
// them to the others after that. The payload is the newest that is stored,
// which is what has to go out.
func (s *Store) ClaimOutbox(ctx context.Context, region string, kinds []topics.Kind, limit int, claim time.Duration) ([]OutboxRow, error) {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	rows, err := s.pool.Query(ctx, `
		WITH due AS (
			SELECT kind, id, region FROM outbox
			WHERE region = $1 AND kind = ANY($2) AND claimed_until <= clock_timestamp()
			ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED
		), claimed AS (
			UPDATE outbox o SET claimed_until = clock_timestamp() + $4, attempts = o.attempts + 1
			FROM due WHERE o.kind = due.kind AND o.id = due.id AND o.region = due.region
			RETURNING o.kind, o.id, o.version, o.attempts, o.created_at
		)
		SELECT c.kind, c.id, coalesce(m.version, a.version, c.version), coalesce(m.signed, a.signed, x.signed),
			coalesce(x.device, ''), x.expires_at, c.attempts
		FROM claimed c
		LEFT JOIN manifest m ON c.kind = 'manifest' AND m.cohort = c.id
		LEFT JOIN assignment a ON c.kind = 'assignment' AND a.device = c.id
		LEFT JOIN command x ON c.kind = 'command' AND x.id = c.id
		ORDER BY c.created_at`, region, names, limit, claim)
	if err != nil {
		return nil, fmt.Errorf("claim outbox: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o OutboxRow, err error) {
		var device string
		var expires *time.Time
		err = row.Scan(&o.Kind, &o.ID, &o.Version, &o.Payload, &device, &expires, &o.Attempts)
		o.Region, o.ExpiresAt = region, moment(expires)
		switch o.Kind {
		case topics.KindManifest:
			o.Topic = topics.CohortManifest(o.ID)
		case topics.KindAssignment:
			o.Topic = topics.DeviceAssignment(o.ID)
		case topics.KindCommand:
			o.Topic = topics.DeviceCommand(device)
		}
		return o, err
	})
	if err != nil {
		return nil, fmt.Errorf("claim outbox: %w", err)
	}
	return out, nil
}

// Published removes rows after their regions have acknowledged their versions,
// except those for which a newer one waits by now.
func (s *Store) Published(ctx context.Context, rows ...OutboxRow) error {
	if len(rows) == 0 {
		return nil
	}
	var kinds, ids, regions []string
	var versions []int64
	// In order, so that replicas do not deadlock.
	for _, o := range sortedBy(rows, func(o OutboxRow) string { return string(o.Kind) + " " + o.ID + " " + o.Region }) {
		kinds, ids, regions, versions = append(kinds, string(o.Kind)), append(ids, o.ID), append(regions, o.Region), append(versions, o.Version)
	}
	return s.change(ctx, func(tx pgx.Tx) error {
		const acknowledged = `unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) AS n (kind, id, version, region)`
		batch := &pgx.Batch{}
		batch.Queue(`
			DELETE FROM outbox o USING `+acknowledged+`
			WHERE o.kind = n.kind AND o.id = n.id AND o.region = n.region AND o.version <= n.version`, kinds, ids, versions, regions)
		batch.Queue(`
			UPDATE manifest m SET published_at = clock_timestamp() FROM `+acknowledged+`
			WHERE n.kind = 'manifest' AND m.cohort = n.id AND m.version = n.version`, kinds, ids, versions, regions)
		batch.Queue(`
			UPDATE assignment a SET published_at = clock_timestamp() FROM `+acknowledged+`
			WHERE n.kind = 'assignment' AND a.device = n.id AND a.version = n.version`, kinds, ids, versions, regions)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("mark %d rows published: %w", len(rows), err)
		}
		return nil
	})
}

// NotPublished gives a claimed row back: it is due again after the delay.
func (s *Store) NotPublished(ctx context.Context, o OutboxRow, delay time.Duration, reason string) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE outbox SET claimed_until = clock_timestamp() + $5, error = $6
		WHERE kind = $1 AND id = $2 AND region = $3 AND version <= $4`, o.Kind, o.ID, o.Region, o.Version, delay, storable(reason))
	if err != nil {
		return fmt.Errorf("give back %s %s: %w", o.Kind, o.ID, err)
	}
	return nil
}

// Republish puts what is stored into the outbox again, for the broker of a region
// that does not hold it. What is gone is no error.
func (s *Store) Republish(ctx context.Context, region string, kind topics.Kind, ids []string) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		table, key := "manifest", "cohort"
		if kind == topics.KindAssignment {
			table, key = "assignment", "device"
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO outbox (kind, id, region, version)
			SELECT $1, `+key+`, $2, version FROM `+table+` WHERE `+key+` = ANY($3) ORDER BY `+key+`
			ON CONFLICT (kind, id, region) DO NOTHING`, kind, region, ids)
		if err != nil {
			return fmt.Errorf("republish %s: %w", kind, err)
		}
		return notify(ctx, tx)
	})
}

// OutboxNotices calls notice whenever something was put into the outbox, on a
// connection of its own, until ctx ends or the connection is lost. It calls
// once at the beginning, when it has begun to listen.
func (s *Store) OutboxNotices(ctx context.Context, notice func()) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("listen to the outbox: %w", err)
	}
	// The connection leaves the pool: it must not come back listening.
	raw := conn.Hijack()
	defer func() { _ = raw.Close(context.WithoutCancel(ctx)) }() // it may be broken
	if _, err := raw.Exec(ctx, `LISTEN `+OutboxChannel); err != nil {
		return fmt.Errorf("listen to the outbox: %w", err)
	}
	notice()
	for {
		if _, err := raw.WaitForNotification(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("listen to the outbox: %w", err)
		}
		notice()
	}
}

// Signed is the version and digest of what is stored for a topic.
type Signed struct {
	ID      string
	Version int64
	Bytes   []byte
}

// SignedAll lists the stored manifests or assignments after an id, for
// comparing them with the broker's.
func (s *Store) SignedAll(ctx context.Context, kind topics.Kind, after string, limit int) ([]Signed, error) {
	table, key := "manifest", "cohort"
	if kind == topics.KindAssignment {
		table, key = "assignment", "device"
	}
	rows, err := s.pool.Query(ctx, `
		SELECT `+key+`, version, signed FROM `+table+` WHERE `+key+` > $1 ORDER BY `+key+` LIMIT $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read signed %ss: %w", kind, err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Signed])
}

// CountSigned is how many manifests or assignments are stored.
func (s *Store) CountSigned(ctx context.Context, kind topics.Kind) (n int64, err error) {
	table := "manifest"
	if kind == topics.KindAssignment {
		table = "assignment"
	}
	err = s.pool.QueryRow(ctx, `SELECT count(*) FROM `+table).Scan(&n)
	return n, err
}

// SignedOne is what is stored for one cohort or device.
func (s *Store) SignedOne(ctx context.Context, kind topics.Kind, id string) (Signed, error) {
	query := `SELECT cohort, version, signed FROM manifest WHERE cohort = $1`
	if kind == topics.KindAssignment {
		query = `SELECT device, version, signed FROM assignment WHERE device = $1`
	}
	var out Signed
	err := s.pool.QueryRow(ctx, query, id).Scan(&out.ID, &out.Version, &out.Bytes)
	return out, absent(err, string(kind), id)
}

// Backlog is what waits in the outbox.
type Backlog struct {
	Pending int64
	Oldest  time.Duration // age of the oldest row; 0: none
}

// Stats are figures for the operator's metrics.
type Stats struct {
	Outbox      Backlog            // of all regions
	Regions     map[string]Backlog // of each one in use
	DeadLetters int64
	Alerts      int64
}

// Stats reads the figures.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	out := Stats{Regions: map[string]Backlog{}}
	err := s.pool.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM dead_letter), (SELECT count(*) FROM alert WHERE acknowledged_at IS NULL)`).
		Scan(&out.DeadLetters, &out.Alerts)
	if err != nil {
		return Stats{}, fmt.Errorf("read stats: %w", err)
	}
	rows, err := s.pool.Query(ctx, `
		SELECT r.name, coalesce(o.pending, 0), coalesce(clock_timestamp() - o.oldest, interval '0')
		FROM region r LEFT JOIN (SELECT region, count(*) AS pending, min(created_at) AS oldest FROM outbox GROUP BY region) o ON o.region = r.name
		WHERE r.retired_at IS NULL`)
	if err != nil {
		return Stats{}, fmt.Errorf("read stats: %w", err)
	}
	var region string
	var b Backlog
	if _, err := pgx.ForEachRow(rows, []any{&region, &b.Pending, &b.Oldest}, func() error {
		out.Regions[region] = b
		out.Outbox = Backlog{out.Outbox.Pending + b.Pending, max(out.Outbox.Oldest, b.Oldest)}
		return nil
	}); err != nil {
		return Stats{}, fmt.Errorf("read stats: %w", err)
	}
	return out, nil
}

var errNoSigner = errors.New("this store has no signer")
