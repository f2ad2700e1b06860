package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/topics"
)

// UplinkRecord is one message of a device (or, for presence and refusal, of the
// broker about it) as the broker delivered and stamped it.
type UplinkRecord struct {
	Topic   string
	Payload []byte
	// Region is whose streams it is from; empty: DefaultRegion.
	Region string
	// Shard and Sequence identify the message in its region, also when it comes
	// again.
	Shard, Sequence int64
	Stored          time.Time // by the broker
	// Model and Hardware are from the device's certificate.
	Model, Hardware string
}

func (r UplinkRecord) region() string { return cmp.Or(r.Region, DefaultRegion) }

// id is the same when the record comes again. Those of the default region had no
// region in it when there was only one.
func (r UplinkRecord) id() string {
	if r.region() == DefaultRegion {
		return fmt.Sprintf("uplink/%d/%d", r.Shard, r.Sequence)
	}
	return fmt.Sprintf("uplink/%s/%d/%d", r.region(), r.Shard, r.Sequence)
}

// UplinkOutcome says what became of a record.
type UplinkOutcome string

// Outcomes. All of them mean that the record may be acknowledged.
const (
	Applied UplinkOutcome = "applied"
	// Duplicate: it was applied before, or something newer was.
	Duplicate UplinkOutcome = "duplicate"
	// Ignored: it is of a kind that is not for the registry.
	Ignored UplinkOutcome = "ignored"
	// Dead: it can never be stored and lies among the dead letters.
	Dead UplinkOutcome = "dead"
)

// UplinkResult is what became of one record.
type UplinkResult struct {
	Kind    topics.Kind // absent when the topic is none of the contract
	Device  string
	Outcome UplinkOutcome
	Reason  string // of Dead
	// PeerFaults is what a status that ends an attempt says, if it was Applied; zero:
	// nothing.
	PeerFaults topics.PeerFaults
}

// ApplyUplink stores a batch in one transaction and answers for each record in
// turn. An error means that nothing was stored, and that trying again may help:
// acknowledge nothing.
//
// It is idempotent and does not depend on order: reports count by (epoch,
// sequence) per device and rollout, heartbeats by (epoch, sequence),
// presence by connection number, all of which only grow; refusals by shard and
// sequence. A device that is not
// known is registered, gets its cohorts and a signed assignment at once.
//
// What does not decode is a dead letter; and when PostgreSQL refuses the data
// of the batch, the records are stored one by one, each behind a savepoint, so
// that only the one that it will never take becomes a dead letter.
func (s *Store) ApplyUplink(ctx context.Context, records []UplinkRecord) ([]UplinkResult, error) {
	if len(records) == 0 {
		return nil, nil
	}
	messages, results := decodeAll(records)
	err := s.change(ctx, func(tx pgx.Tx) error {
		return s.applyAll(ctx, tx, messages, slices.Clone(results), false, &results)
	})
	if poisonous(err) {
		s.log.Warn("batch of reports refused, storing one by one", "records", len(records), "err", err)
		messages, results = decodeAll(records)
		err = s.change(ctx, func(tx pgx.Tx) error {
			return s.applyAll(ctx, tx, messages, slices.Clone(results), true, &results)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("apply uplink: %w", err)
	}
	return results, nil
}

// poisonous reports whether PostgreSQL refused the data, and will again: a data
// exception (class 22) or a violated constraint (class 23), or text that does
// not fit a limit of the server (class 54).
func poisonous(err error) bool {
	state := sqlState(err)
	return len(state) == 5 && (state[:2] == "22" || state[:2] == "23" || state[:2] == "54")
}

// message is a decoded record.
type message struct {
	at      int // index of the record
	record  UplinkRecord
	device  string
	payload any // topics.Status, Heartbeat, Log, Presence or Refusal
	dead    string
}

func decodeAll(records []UplinkRecord) ([]message, []UplinkResult) {
	messages := make([]message, 0, len(records))
	results := make([]UplinkResult, len(records))
	for i, r := range records {
		m := message{at: i, record: r}
		name, err := topics.Parse(r.Topic)
		if err == nil {
			results[i].Kind, results[i].Device, m.device = name.Kind, name.ID, name.ID
			switch name.Kind {
			case topics.KindStatus:
				m.payload, err = topics.DecodeStatus(r.Payload)
			case topics.KindHeartbeat:
				m.payload, err = topics.DecodeHeartbeat(r.Payload)
			case topics.KindLog:
				m.payload, err = topics.DecodeLog(r.Payload)
			case topics.KindPresence:
				m.payload, err = topics.DecodePresence(r.Payload)
			case topics.KindRefusal:
				m.payload, err = topics.DecodeRefusal(r.Payload)
			default:
				results[i].Outcome = Ignored
				continue
			}
		}
		if err == nil && (!topics.ValidID(r.Model) || !topics.ValidID(r.Hardware)) {
			if p, ok := m.payload.(topics.Presence); ok {
				m.record.Model, m.record.Hardware = p.Model, p.Hardware
			} else {
				err = errors.New("the broker's stamp of model and hardware is missing")
			}
		}
		if err != nil {
			m.dead = err.Error()
		}
		if m.record.Stored.IsZero() || m.record.Stored.Year() > 9999 || m.record.Stored.Year() < 1970 {
			m.record.Stored = time.Now()
		}
		messages = append(messages, m)
	}
	// In order of devices, so that two replicas lock rows in the same order.
	slices.SortStableFunc(messages, func(a, b message) int { return strings.Compare(a.device, b.device) })
	return messages, results
}

// applyAll stores messages and writes to out what became of them. isolated
// stores each behind a savepoint.
func (s *Store) applyAll(ctx context.Context, tx pgx.Tx, messages []message, results []UplinkResult, isolated bool, out *[]UplinkResult) error {
	if !isolated {
		if err := s.applySome(ctx, tx, messages, results); err != nil {
			return err
		}
		*out = results
		return nil
	}
	for _, m := range messages {
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return s.applySome(ctx, tx, []message{m}, results) })
		if poisonous(err) {
			m.dead = err.Error()
			err = s.applySome(ctx, tx, []message{m}, results)
		}
		if err != nil {
			return err
		}
	}
	*out = results
	return nil
}

func (s *Store) applySome(ctx context.Context, tx pgx.Tx, messages []message, results []UplinkResult) error {
	var alive []message
	for _, m := range messages {
		if m.dead == "" {
			alive = append(alive, m)
			continue
		}
		if err := deadLetter(ctx, tx, "registry", m.record, m.dead); err != nil {
			return err
		}
		results[m.at].Outcome, results[m.at].Reason = Dead, m.dead
	}
	if len(alive) == 0 {
		return nil
	}
	if err := s.register(ctx, tx, alive); err != nil {
		return err
	}
	u := newUplink(alive, results)
	if err := u.write(ctx, tx); err != nil {
		return err
	}
	if err := s.heal(ctx, tx, u.held); err != nil {
		return err
	}
	return s.tellTime(ctx, tx, u.heard)
}
