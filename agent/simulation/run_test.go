package simulation

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"groundswell/agent/journal"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// run is one device and its fleet, over some updates.
type run struct {
	seed      uint64
	kind      kind
	forgetful bool // bits flip in what it remembers as well: attempts may be forgotten
	catalogue *catalogue
	device    *device
	faults    *faults
	random    *rand.Rand // of the fleet
	natures   map[int]nature

	manifests [][]byte // signed, by version
	entries   []topics.Entry
	ends      map[attempt][]topics.Status // what was reported as the end, told apart
	last      map[attempt]topics.Status
	reports   []topics.Status // all, also those that came twice
	replay    []journal.Report

	ticks   atomic.Int64
	trace   hash.Hash
	keep    func(string) // sees each event; may be nil
	failed  error
	bricked bool
	counts  map[string]int
}

// attempt is one of a rollout.
type attempt struct {
	rollout string
	number  int
}

// position is what reports are ordered by.
type position struct{ epoch, sequence int64 }

func newRun(seed uint64, of kind) *run {
	r := &run{
		seed: seed, kind: of, catalogue: theCatalogue(), natures: map[int]nature{},
		ends: map[attempt][]topics.Status{}, last: map[attempt]topics.Status{}, trace: sha256.New(), counts: map[string]int{},
	}
	r.random = r.source("fleet", 0)
	r.faults = &faults{run: r, random: r.source("faults", 0)}
	r.device = newDevice(r, r.source("device", 0))
	of.factory(r.device)
	r.forgetful = seed%10 == 3
	r.device.disk.Ask = r.faults.ask
	return r
}

// source is a source of chance of its own: who draws from it changes nobody else's.
func (r *run) source(name string, n uint64) *rand.Rand {
	var key [32]byte
	copy(key[:], name)
	binary.LittleEndian.PutUint64(key[16:], r.seed)
	binary.LittleEndian.PutUint64(key[24:], n)
	return rand.New(rand.NewChaCha8(key))
}

// sleep wakes no two sleepers at the same moment, so that the order is always the same.
func (r *run) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d + time.Duration(r.ticks.Add(1)%1e6))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// event is part of what makes two runs the same.
func (r *run) event(format string, args ...any) {
	line := fmt.Sprintf("%s ", time.Now().Format("01-02 15:04:05.000")) + fmt.Sprintf(format, args...)
	fmt.Fprintln(r.trace, line)
	if r.keep != nil {
		r.keep(line)
	}
}

func (r *run) count(what string) { r.counts[what]++ }

// fail ends the run: something happened that must not.
func (r *run) fail(format string, args ...any) {
	if r.failed == nil {
		r.failed = fmt.Errorf("seed %d: "+format, append([]any{r.seed}, args...)...)
		r.event("FAILED: %v", r.failed)
	}
}

// brick is fail for a device that nobody can reach any more.
func (r *run) brick(format string, args ...any) {
	r.bricked = true
	r.fail("bricked: "+format, args...)
}

// digest tells runs apart.
func (r *run) digest() string { return hex.EncodeToString(r.trace.Sum(nil)[:8]) }

// publish signs what is to run now.
func (r *run) publish() {
	pin := r.catalogue.pin
	raw, err := trust.SignManifest(topics.Manifest{
		Schema: topics.Schema, Kind: "manifest", TrustDomain: domain, Cohort: cohort, Version: int64(len(r.manifests)) + 1,
		Issued: time.Now().UTC(), Images: &pin, Entries: append([]topics.Entry{}, r.entries...),
	}, epoch.AddDate(15, 0, 0), r.catalogue.director)
	if err != nil {
		r.fail("sign: %v", err)
		return
	}
	r.manifests = append(r.manifests, raw)
	r.event("published %d", len(r.manifests))
}

// rollout is the entry of an update, open for everybody.
func (r *run) rollout(n int) topics.Entry {
	image := r.catalogue.release[n]
	return topics.Entry{
		Rollout: fmt.Sprint("r-", n), Revision: 1, Kind: topics.EntryUpdate, State: topics.EntryRunning, Sequence: int64(n),
		Component: component, Release: image.Release.Name, Version: image.Release.Version,
		Target: topics.Target{Path: image.Path, Length: image.Length, SHA256: image.SHA256},
		Models: []string{model}, Waves: []topics.Wave{{Threshold: topics.Buckets, OpensAt: time.Now().UTC().Truncate(time.Second)}},
		Windows: []topics.Window{},
	}
}

// receive is fleetd: what comes twice counts once.
func (r *run) receive(report journal.Report) {
	r.replay = append(r.replay, report)
	if n := len(r.replay); n > 4 && r.random.IntN(10) == 0 { // an old one comes again
		r.take(r.replay[r.random.IntN(n)])
	}
	r.take(report)
}

func (r *run) take(report journal.Report) {
	if report.Kind != topics.KindStatus {
		return
	}
	s, err := topics.DecodeStatus(report.Payload)
	if err != nil {
		r.fail("report cannot be read: %v", err)
		return
	}
	r.reports = append(r.reports, s)
	r.event("report %s %d %s %s running %s", s.Rollout, s.Attempt, s.State, s.Reason, s.Running)
	a := attempt{s.Rollout, s.Attempt}
	at := position{s.Epoch, s.Sequence}
	if before := r.last[a]; at.epoch > before.Epoch || at.epoch == before.Epoch && at.sequence > before.Sequence {
		r.last[a] = s
	}
	if !s.State.Terminal() {
		return
	}
	for _, known := range r.ends[a] {
		if known.Epoch == s.Epoch && known.Sequence == s.Sequence {
			return
		}
	}
	r.ends[a] = append(r.ends[a], s)
	r.count("end " + string(s.State))
}
