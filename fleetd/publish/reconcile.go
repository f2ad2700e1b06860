package publish

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"sync"
	"time"

	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// held is what the broker retains on a topic.
type held struct {
	version int64
	digest  [sha256.Size]byte
}

const (
	// quiet is how long nothing must come before what the broker retains
	// counts as read. If it only paused, some of it seems missing and is
	// published again, which changes nothing.
	quiet = 1500 * time.Millisecond
	// readingFor bounds the reading.
	readingFor = 2 * time.Minute
	chunk      = 500
)

// compareLoop compares at each connect and from time to time.
func (p *Publisher) compareLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.up:
		case <-time.After(p.cfg.Reconcile/2 + mathrand.N(p.cfg.Reconcile)):
		}
		if err := p.Reconcile(ctx); err != nil && ctx.Err() == nil {
			p.cfg.Log.Warn("broker and database not compared, tries again", "err", err)
			pause(ctx, time.Second+mathrand.N(2*time.Second))
			if p.to[0].client.Connected() {
				select {
				case p.up <- struct{}{}:
				default:
				}
			}
		}
	}
}

// Reconcile compares what the broker retains, that is, the own region, with
// PostgreSQL, and puts right what differs, once.
func (p *Publisher) Reconcile(ctx context.Context) error {
	if err := p.reconcile(ctx, topics.KindManifest, topics.AllManifests, 0); err != nil {
		return err
	}
	if err := p.reconcile(ctx, topics.KindAssignment, topics.AllAssignments, p.cfg.MaxAssignments); err != nil {
		return err
	}
	p.reconciled.Add(1)
	return nil
}

// reconcile compares one kind, unless more than most are stored (0: always).
func (p *Publisher) reconcile(ctx context.Context, kind topics.Kind, filter string, most int) error {
	if most > 0 {
		n, err := p.cfg.Store.CountSigned(ctx, kind)
		if err != nil || n > int64(most) {
			return err
		}
	}
	broker, err := p.retained(ctx, filter)
	if err != nil {
		return err
	}
	// PostgreSQL is read after the broker: what was published meanwhile is
	// newer there, and only goes out once more.
	for after := ""; ; {
		stored, err := p.cfg.Store.SignedAll(ctx, kind, after, chunk)
		if err != nil {
			return err
		}
		var behind []string
		for _, s := range stored {
			after = s.ID
			topic := topics.Name{Kind: kind, ID: s.ID}.String()
			h, ok := broker[topic]
			switch {
			case ok && (h.version > s.Version || h.version == s.Version && h.digest != sha256.Sum256(s.Bytes)):
				p.cfg.Log.Warn("the broker is ahead, signing anew above it", "topic", topic, "version", s.Version, "retained", h.version)
				p.superseded.Add(1)
				if err := p.cfg.Store.Supersede(ctx, kind, s.ID, h.version); err != nil {
					return err
				}
			case !ok || h.version < s.Version:
				behind = append(behind, s.ID)
			}
		}
		if len(behind) > 0 {
			p.cfg.Log.Info("the broker is behind, publishing again", "kind", kind, "count", len(behind), "first", behind[0])
			if err := p.cfg.Store.Republish(ctx, p.cfg.Region, kind, behind); err != nil {
				return err
			}
		}
		if len(stored) < chunk {
			return nil
		}
	}
}

// retained reads what the broker retains below a filter, on a connection of
// its own.
func (p *Publisher) retained(ctx context.Context, filter string) (map[string]held, error) {
	ctx, cancel := context.WithTimeout(ctx, readingFor)
	defer cancel()
	var mu sync.Mutex // guards found
	found := map[string]held{}
	progress := make(chan struct{}, 1)
	settings := p.connection(p.cfg.ClientID + "-read-" + rand.Text()[:8])
	settings.OnMessage = func(m mqttclient.Message) {
		text, _ := m.Property(topics.PropVersion)
		version, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			p.cfg.Log.Warn("retained message without a version", "topic", m.Topic)
			return
		}
		mu.Lock()
		if old, ok := found[m.Topic]; !ok || version > old.version {
			found[m.Topic] = held{version, sha256.Sum256(m.Payload)}
		}
		mu.Unlock()
		select {
		case progress <- struct{}{}:
		default:
		}
	}
	session, err := mqttclient.Dial(ctx, settings)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	if err := session.Subscribe(ctx, []mqttclient.Subscription{{Filter: filter, QoS: 1}}); err != nil {
		return nil, err
	}
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("read retained messages of %s: %w", filter, ctx.Err())
		case <-session.Done():
			return nil, session.Err()
		case <-progress:
		case <-time.After(quiet):
			mu.Lock()
			defer mu.Unlock()
			return found, nil
		}
	}
}
