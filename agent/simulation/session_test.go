package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"groundswell/agent/clock"
	"groundswell/agent/decide"
	"groundswell/agent/fetch"
	"groundswell/agent/journal"
	"groundswell/agent/verify"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// session is what the device has of the world while its agent lives: what was sent to
// it, what it sends, what it downloads.
type session struct {
	device   *device
	random   *rand.Rand
	verifier *verify.Verifier
	journal  *journal.Journal
	clock    *clock.Clock

	world    decide.World
	changed  chan struct{}
	complete bool // connected, and all was read
	opened   time.Time
	heard    time.Duration // of uptime
	seen     int64         // the newest manifest that was sent on this connection
	asked    bool          // to check in
}

func newSession(d *device, v *verify.Verifier, j *journal.Journal, clk *clock.Clock) *session {
	return &session{
		device: d, random: d.run.source("session", uint64(d.boots)<<20|uint64(d.disk.Changes())), verifier: v, journal: j, clock: clk,
		changed: make(chan struct{}, 1),
		world:   decide.World{Manifests: map[string]topics.Manifest{}, Until: map[string]time.Time{}},
	}
}

// World implements deploy.World, as package link does.
func (s *session) World() decide.World {
	w := s.world
	w.View = decide.View{Opened: s.opened, Age: s.clock.Uptime() - s.heard, Live: s.complete}
	return w
}

func (s *session) Changed() <-chan struct{} { return s.changed }
func (s *session) CheckIn()                 { s.asked = true }
func (s *session) Heartbeat()               {}
func (s *session) Heard() (time.Duration, bool) {
	return s.clock.Uptime() - s.heard, s.heard > 0
}

// up is whether there is a network between the device and the broker.
func (s *session) up() bool {
	return s.device.run.natures[s.device.runs] != deaf && s.device.run.faults.networkUp()
}

// serve is the connection, while the agent lives.
func (s *session) serve(ctx context.Context) {
	for {
		pause := 5*time.Second + time.Duration(s.random.Int64N(int64(45*time.Second)))
		if s.device.run.sleep(ctx, pause) != nil {
			return
		}
		if !s.up() {
			s.complete, s.seen = false, 0
			continue
		}
		s.heard = s.clock.Uptime()
		s.receive()
		if s.device.run.sleep(ctx, time.Millisecond) != nil { // the driver goes first
			return
		}
		for range 4 {
			if !s.send() {
				break
			}
		}
	}
}

// receive takes what the broker has for the device: what is retained when it connects,
// and what is newer then; some of it twice, some long after what replaced it.
func (s *session) receive() {
	r := s.device.run
	if !s.complete {
		if !s.take(func() error { return s.assignment(r.catalogue.assignment) }) {
			return
		}
	}
	if s.random.IntN(60) == 0 && len(r.manifests) > 1 { // an old one, from a queue
		s.manifest(r.manifests[s.random.IntN(len(r.manifests))], true)
	}
	if s.seen < int64(len(r.manifests)) || s.random.IntN(60) == 0 {
		if !s.take(func() error { return s.manifest(r.manifests[len(r.manifests)-1], false) }) {
			return
		}
		s.seen = int64(len(r.manifests))
	}
	if !s.complete {
		s.complete, s.opened = true, s.clock.Now()
		s.remind()
	}
}

// take reports whether it went well; if not, the connection is made anew.
func (s *session) take(do func() error) bool {
	err := do()
	if err == nil {
		now, quality := s.clock.Read()
		err = s.journal.Witness(now, quality == topics.ClockTrusted)
	}
	if err != nil {
		s.device.run.event("not taken: %v", err)
		s.complete, s.seen = false, 0
	}
	return err == nil
}

func (s *session) assignment(raw []byte) error {
	a, err := s.verifier.Assignment(raw)
	if err != nil {
		return err
	}
	until, err := s.verifier.Until(raw)
	if err != nil {
		return err
	}
	s.world.Assigned, s.world.Assignment, s.world.AssignmentUntil = true, a, until
	return nil
}

func (s *session) manifest(raw []byte, old bool) error {
	m, err := s.verifier.Manifest(raw, cohort)
	if err != nil {
		if old && !errors.Is(err, trust.ErrVersionRollback) {
			s.device.run.event("old manifest: %v", err)
		}
		return err
	}
	until, err := s.verifier.Until(raw)
	if err != nil {
		return err
	}
	manifests, untils := map[string]topics.Manifest{cohort: m}, map[string]time.Time{cohort: until}
	s.world.Manifests, s.world.Until = manifests, untils
	s.remind()
	return nil
}

func (s *session) remind() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// send sends one report, and reports whether there may be another.
func (s *session) send() bool {
	report, ok := s.journal.Next()
	if !ok {
		return false
	}
	r := s.device.run
	switch s.random.IntN(12) {
	case 0: // lost on the way
		return false
	case 1: // taken, and the acknowledgement is lost
		r.receive(report)
		return false
	case 2: // taken twice
		r.receive(report)
	}
	r.receive(report)
	if err := s.journal.Sent(report.ID); err != nil {
		r.event("sent: %v", err)
		return false
	}
	return true
}

// Artifact implements deploy.Downloads. It goes on where it stopped, and trusts nothing;
// now and then it brings something else, without a word.
func (s *session) Artifact(ctx context.Context, a fetch.Artifact, path string, _ func(int64, topics.Transfer)) error {
	r := s.device.run
	image := r.catalogue.images[r.catalogue.bySHA[a.SHA256]]
	if image == nil {
		r.fail("something was downloaded that was never signed: %s", a.SHA256)
		return fetch.ErrWrongBytes
	}
	file, err := s.device.disk.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	at, err := file.Seek(0, 2)
	if err != nil {
		return err
	}
	wrong := r.faults.wrongBytes()
	for at = min(at, int64(len(image))) / 2; at < int64(len(image)); {
		if r.sleep(ctx, 5*time.Second+time.Duration(s.random.Int64N(int64(20*time.Second)))) != nil {
			return context.Cause(ctx)
		}
		if !s.up() || r.faults.serverDown() {
			continue
		}
		n := min(int64(len(image))-at, 1500)
		data := append([]byte(nil), image[at:at+n]...)
		if wrong {
			data[len(data)/2] ^= 0x10
		}
		if _, err := file.WriteAt(data, at); err != nil {
			return err
		}
		at += n
	}
	return file.Sync()
}

// Pause implements deploy.Downloads.
func (s *session) Pause(ctx context.Context, n int) error {
	return s.device.run.sleep(ctx, s.device.jitter(time.Second<<min(n, 8)))
}

// source implements verify.Source.
type source struct{ run *run }

var errDown = errors.New("the server is down")

func (s source) Root(context.Context, trust.Repository, int64, func([]byte) error) error {
	if !s.run.faults.networkUp() || s.run.faults.serverDown() {
		return errDown
	}
	return fmt.Errorf("root: %w", fetch.ErrNotFound)
}

func (s source) Snapshot(_ context.Context, _ topics.SnapshotPin, accept func([]byte) error) error {
	return accept(s.run.catalogue.snapshot)
}

func (s source) Targets(_ context.Context, _ trust.TargetsPin, accept func([]byte) error) error {
	if s.run.faults.wrongBytes() {
		return accept(s.run.catalogue.targets[1:])
	}
	return accept(s.run.catalogue.targets)
}
