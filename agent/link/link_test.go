package link

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/agent/clock"
	"groundswell/agent/journal"
	"groundswell/agent/telemetry"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// peer answers as a hostile or failing broker would.
type peer struct {
	mu        sync.Mutex // guards what follows
	answers   []error    // to Publish, one after the other; then nil
	published []string
	refused   []string // filters
	asked     []string
}

func (p *peer) Publish(_ context.Context, m mqttclient.Publication) error {
	sum := sha256.Sum256(m.Payload)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published = append(p.published, m.Topic+" "+hex.EncodeToString(sum[:4]))
	if len(p.answers) == 0 {
		return nil
	}
	err := p.answers[0]
	p.answers = p.answers[1:]
	return err
}

func (p *peer) Subscribe(_ context.Context, subs []mqttclient.Subscription) error {
	var errs []error
	for _, s := range subs {
		p.asked = append(p.asked, s.Filter)
		if slices.Contains(p.refused, s.Filter) {
			errs = append(errs, &mqttclient.RefusedError{Packet: "SUBACK", Code: mqttclient.CodeNotAuthorized, Topic: s.Filter})
		}
	}
	return errors.Join(errs...)
}

func (p *peer) Unsubscribe(context.Context, []string) error { return nil }

func newLink(t *testing.T) *Link { return newLinkAt(t, clock.New(time.Time{}, nil)) }

func newLinkAt(t *testing.T, clk *clock.Clock) *Link { return newLinkIn(t, t.TempDir(), clk) }

// newLinkIn has its journal in dir.
func newLinkIn(t *testing.T, dir string, clk *clock.Clock) *Link {
	t.Helper()
	j, err := journal.Open(dir, time.Now(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	facts := func(bool) Facts { return Facts{Versions: map[string]string{"system": "1.0.0"}, BootID: "b1"} }
	return New(Config{Device: "cam-1", BackoffMin: time.Second, BackoffMax: time.Minute, Heartbeat: time.Minute, Mode: topics.ModeConnected},
		nil, j, clk, telemetry.Machine{}, facts, Metrics{}, slog.New(slog.DiscardHandler))
}

func refusal(code byte) error { return &mqttclient.RefusedError{Packet: "PUBACK", Code: code} }

func TestReportIsKeptUntilTakenUnlessItWillNeverBe(t *testing.T) {
	lost := fmt.Errorf("%w: %w", mqttclient.ErrConnectionLost, &mqttclient.RefusedError{Packet: "DISCONNECT", Code: 0x87})
	for _, c := range []struct {
		name   string
		answer error
		kept   bool
	}{
		{"taken", nil, false},
		{"quota", refusal(0x97), true},
		{"busy", refusal(0x89), true},
		{"unspecified", refusal(0x80), true},
		{"lost", mqttclient.ErrConnectionLost, true},
		{"lost because the certificate was revoked", lost, true},
		{"no answer", mqttclient.ErrTimeout, true},
		{"not authorized", refusal(0x87), false},
		{"payload refused", refusal(0x99), false},
		{"packet too large", refusal(0x95), false},
		{"too large for this broker, by its own word", fmt.Errorf("publish: %w", mqttclient.ErrPacketTooLarge), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLink(t)
			l.Heartbeat()
			report, _ := l.journal.Next()
			done := l.sendOne(t.Context(), l.open(time.Now()), &peer{answers: []error{c.answer}}, report)
			if _, kept := l.journal.Next(); kept != c.kept || done == c.kept {
				t.Errorf("kept %v, done %v", kept, done)
			}
			if dropped := l.journal.Snapshot().Dropped; dropped > 0 != (!c.kept && c.answer != nil) {
				t.Errorf("%d dropped", dropped)
			}
		})
	}
}

func TestRefusedReportIsSentAgainUnchangedAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t)
		l.Heartbeat()
		ctx, cancel := context.WithCancel(t.Context())
		p := &peer{answers: []error{refusal(0x97), refusal(0x97), refusal(0x97), nil}}
		began := time.Now()
		done := make(chan struct{})
		c := l.open(time.Now())
		go func() { l.send(ctx, c, p); close(done) }()
		sent := func() int {
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.published)
		}
		for sent() < 4 {
			time.Sleep(time.Second)
		}
		cancel()
		<-done
		if took := time.Since(began); took > 1*time.Minute {
			t.Errorf("three pauses took %v", took)
		}
		for _, m := range p.published {
			if m != p.published[0] {
				t.Errorf("sent %v", p.published)
			}
		}
	})
}

// Heartbeats go on, one log says why nothing else happens, and what was
// journalled before is sent once.
func TestDeviceWithAFailingDiskIsHeardOf(t *testing.T) {
	dir := t.TempDir()
	l := newLinkIn(t, dir, clock.New(time.Time{}, nil))
	if err := l.journal.Update(func(r *journal.Record) error {
		return r.QueueLog(topics.Log{Source: "system", Text: "before", At: l.now()})
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "journal.new", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := &peer{}
	c := l.open(time.Now())
	sendAll := func() (sent []topics.Kind) {
		for range 10 {
			report, ok := l.journal.Next()
			if !ok {
				return sent
			}
			if !l.sendOne(t.Context(), c, p, report) {
				t.Fatalf("%s: to be sent again", report.Kind)
			}
			sent = append(sent, report.Kind)
		}
		t.Fatal("it goes on sending the same")
		return nil
	}
	for i, want := range [][]topics.Kind{
		{topics.KindLog, topics.KindLog, topics.KindHeartbeat},
		{topics.KindHeartbeat},
		{topics.KindHeartbeat},
	} {
		l.Heartbeat()
		if got := sendAll(); !slices.Equal(got, want) {
			t.Errorf("beat %d: sent %v, want %v", i, got, want)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "journal.new")); err != nil {
		t.Fatal(err)
	}
	l.Heartbeat()
	sendAll()
	if err := os.MkdirAll(filepath.Join(dir, "journal.new", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	l.Heartbeat()
	if got := sendAll(); !slices.Contains(got, topics.KindLog) {
		t.Errorf("the second time it is not told: %v", got)
	}
}

func TestRefusedCohortDoesNotCostTheConnection(t *testing.T) {
	l := newLink(t)
	l.assignment = &held[topics.Assignment]{body: topics.Assignment{Cohorts: []string{"a", "left", "c"}}}
	p := &peer{refused: []string{topics.CohortManifest("left")}}
	granted, err := l.subscribe(t.Context(), p)
	if err != nil || !slices.Equal(granted, []string{"a", "c"}) {
		t.Fatalf("granted %v, %v", granted, err)
	}
	p.refused = []string{topics.DeviceAssignment("cam-1")}
	if _, err := l.subscribe(t.Context(), p); err == nil {
		t.Fatal("it goes on without its assignment")
	}
}

func TestLiveOnlyWhenEverythingCameOverThisConnection(t *testing.T) {
	l := newLink(t)
	assignment, manifest := topics.DeviceAssignment("cam-1"), topics.CohortManifest("a")
	l.assignment = &held[topics.Assignment]{body: topics.Assignment{Cohorts: []string{"a"}}}
	l.manifests["a"] = held[topics.Manifest]{body: topics.Manifest{Cohort: "a"}}
	arrive := func(topic string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.arrived(topic)
	}
	arrive(assignment) // before the connection is announced: does not count
	c := l.open(time.Now())
	arrive(manifest)
	if w := l.World(); w.View.Live || !w.View.Opened.IsZero() {
		t.Fatalf("without the assignment: %+v", w.View)
	}
	arrive(assignment)
	if w := l.World(); !w.View.Live {
		t.Fatalf("complete: %+v", w.View)
	}
	l.close(c)
	if w := l.World(); w.View.Live || !w.View.Opened.Equal(c.opened) {
		t.Fatalf("after its end: %+v", w.View)
	}
	before := l.World().View.Opened
	l.close(l.open(time.Now())) // nothing came: the old view stays
	if !l.World().View.Opened.Equal(before) {
		t.Fatalf("after an empty connection: %+v", l.World().View)
	}
}

func TestAssignmentsWordOnModeCounts(t *testing.T) {
	l := newLink(t)
	l.cfg.Interval, l.cfg.Jitter = time.Hour, time.Minute
	l.assignment = &held[topics.Assignment]{}
	if mode, interval, jitter := l.schedule(); mode != topics.ModeConnected || interval != time.Hour || jitter != time.Minute {
		t.Errorf("silent assignment: %v %v %v", mode, interval, jitter)
	}
	l.assignment.body.Polling = topics.Polling{Mode: topics.ModePolling, IntervalSeconds: 1 << 60}
	if mode, interval, jitter := l.schedule(); mode != topics.ModePolling || interval <= 0 || interval > 366*24*time.Hour || jitter != 0 {
		t.Errorf("absurd interval: %v %v %v", mode, interval, jitter)
	}
}

func TestFloodOfRefusalsIsNotWrittenDown(t *testing.T) {
	l := newLink(t)
	topic := topics.CohortManifest("a")
	name, err := topics.Parse(topic)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		l.refuse(name, topic, fmt.Append(nil, i), errors.New("no"))
	}
	l.refuse(name, topic, fmt.Append(nil, 0), errors.New("no"))
	if r := l.journal.Snapshot(); len(r.Queue) != 8 || len(l.reported) > maxReported {
		t.Fatalf("%d reports, %d remembered", len(r.Queue), len(l.reported))
	}
}
