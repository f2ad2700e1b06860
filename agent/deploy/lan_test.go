package deploy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/assemble"
	"groundswell/agent/clock"
	"groundswell/agent/condition"
	"groundswell/agent/decide"
	"groundswell/agent/fetch"
	"groundswell/agent/journal"
	"groundswell/agent/peers"
	"groundswell/agent/peers/peerstest"
	"groundswell/agent/update"
	"groundswell/agent/verify"
	"groundswell/agent/wake"
	"groundswell/certs"
	"groundswell/certs/trust"
	"groundswell/internal/backoff"
	"groundswell/internal/block"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

// lan is a release, an origin that has it, and the devices of one site.
type lan struct {
	*httptest.Server
	t        *testing.T
	ca       *certs.CA
	data     []byte // the artifact
	index    []byte
	blocks   []block.Block
	entry    topics.Entry
	pin      topics.SnapshotPin
	artifact fetch.Artifact
	roots    verify.Roots
	mirrors  []string       // sources besides the origin
	besides  []byte         // a document that peers hold as well
	spec     trust.RootSpec // of the image repository's root
	root     *trust.Key     // of it
	snapshot *trust.Key     // of the same repository
	director trust.RoleKeys

	mu    sync.Mutex // guards what follows
	files map[string][]byte
	asked map[string]int // requests, by path
	sent  int64          // bytes of the artifact
	fault http.HandlerFunc
}

// its is the digest of data in hex.
func its(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

func newLAN(t *testing.T) *lan {
	t.Helper()
	return newLANOf(t, nil)
}

// newLANOf has the index of another artifact of 4 MiB, unless that is nil.
func newLANOf(t *testing.T, other []byte) *lan {
	t.Helper()
	l := &lan{t: t, ca: peerstest.CA(t, peerstest.Domain), data: make([]byte, 4<<20), files: map[string][]byte{}, asked: map[string]int{}}
	_, _ = rand.NewChaCha8([32]byte{1}).Read(l.data) // never fails
	if other == nil {
		other = l.data
	}
	index, err := block.Make(t.Context(), bytes.NewReader(other), int64(len(other)))
	if err != nil {
		t.Fatal(err)
	}
	l.index, l.blocks = index.Bytes(), index.Blocks
	pin := topics.Document{Length: int64(len(l.index)), SHA256: its(l.index)}
	l.artifact = fetch.Artifact{Length: int64(len(l.data)), SHA256: its(l.data), Index: &pin}
	key := func() (*trust.Key, trust.RoleKeys) {
		k, err := trust.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		return k, trust.RoleKeys{Keys: []trust.PublicKey{k.Public()}, Threshold: 1}
	}
	began, expires := time.Now(), time.Now().AddDate(1, 0, 0)
	rootKey, root := key()
	releaseKey, release := key()
	snapshotKey, snapshot := key()
	_, timestamp := key()
	_, director := key()
	l.spec = trust.RootSpec{TrustDomain: peerstest.Domain, Repository: trust.Image, Expires: expires, Root: root, Targets: release, Snapshot: snapshot, Timestamp: timestamp}
	l.root, l.snapshot, l.director = rootKey, snapshotKey, director
	imageRoot, errImage := trust.InitRoot(l.spec, rootKey)
	directorRoot, errDirector := trust.InitRoot(trust.RootSpec{TrustDomain: peerstest.Domain, Repository: trust.Director, Expires: expires, Root: root, Targets: director}, rootKey)
	r := trust.Release{Schema: 1, Component: "system", Name: "camera", Version: "1.1.0", Models: []string{"cam-a"}, Index: &pin}
	image := trust.ReleaseImage{Path: trust.ReleasePath(r), Length: l.artifact.Length, SHA256: l.artifact.SHA256, Release: r}
	targets, errTargets := trust.SignTargets(trust.TargetsSpec{Root: imageRoot, Add: []trust.ReleaseImage{image}, Now: began, Expires: expires}, releaseKey)
	list, of, errSnapshot := trust.MakeSnapshot(targets, 1, expires, snapshotKey)
	if err := errors.Join(errImage, errDirector, errTargets, errSnapshot); err != nil {
		t.Fatal(err)
	}
	l.pin, l.roots = of, verify.Roots{Image: imageRoot, Director: directorRoot}
	l.entry = topics.Entry{Rollout: "r-1", Revision: 1, Sequence: 1, State: topics.EntryRunning, Component: "system", Release: "camera", Version: "1.1.0", Models: r.Models,
		Target: topics.Target{Path: image.Path, Length: image.Length, SHA256: image.SHA256}, Waves: []topics.Wave{{Threshold: topics.Buckets, OpensAt: began.Add(-time.Hour)}}}
	l.files["/repository/image/1.snapshot.json"], l.files["/repository/image/1.targets.json"] = list, targets
	l.files["/artifacts/"+l.artifact.SHA256], l.files["/artifacts/"+pin.SHA256] = l.data, l.index
	l.Server = httptest.NewServer(http.HandlerFunc(l.serve))
	t.Cleanup(l.Close)
	t.Cleanup(l.CloseClientConnections)
	return l
}

func (l *lan) serve(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	l.asked[r.URL.Path]++
	data, fault := l.files[r.URL.Path], l.fault
	l.mu.Unlock()
	switch {
	case fault != nil:
		fault(w, r)
	case data == nil:
		http.NotFound(w, r)
	default:
		digest := strings.TrimPrefix(r.URL.Path, "/artifacts/")
		w.Header().Set("ETag", `"`+digest+`"`)
		http.ServeContent(tally{w, l, digest == l.artifact.SHA256}, r, "", time.Time{}, bytes.NewReader(data))
	}
}

// tally counts bytes of the artifact.
type tally struct {
	http.ResponseWriter
	l     *lan
	count bool
}

func (c tally) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	if c.count {
		c.l.mu.Lock()
		c.l.sent += int64(n)
		c.l.mu.Unlock()
	}
	return n, err
}

// publish gives the origin the image repository's next root, with other release keys.
func (l *lan) publish(release trust.RoleKeys) {
	l.t.Helper()
	spec := l.spec
	spec.Targets = release
	raw, err := trust.RotateRoot(l.roots.Image, spec, l.root)
	if err != nil {
		l.t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files[secondRoot] = raw
}

const secondRoot = "/repository/image/2.root.json"

// asks is how often the origin was asked for something.
func (l *lan) asks(path string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked[path]
}

// forget has the origin count anew, and answer by fault; nil: as it should.
func (l *lan) forget(fault http.HandlerFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked, l.sent, l.fault = map[string]int{}, 0, fault
}

// counted is how often the origin was asked for anything, how often for the index, and how
// many bytes of the artifact it has sent.
func (l *lan) counted() (requests, index int, sent int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.asked {
		requests += n
	}
	return requests, l.asked["/artifacts/"+l.artifact.Index.SHA256], l.sent
}

func (l *lan) verifier(dir string, clk *clock.Clock, source verify.Source, device string) *verify.Verifier {
	l.t.Helper()
	v, err := verify.Open(dir, peerstest.Domain, device, l.roots, clk, time.Now(), source, slog.New(slog.DiscardHandler))
	if err != nil {
		l.t.Fatal(err)
	}
	return v
}

// peer has the list of releases, and an artifact as far as it was told.
type peer struct {
	assemble.Downloads
	l    *lan
	path string
	have int64
}

// newPeer is a peer that has nothing of the artifact, at a place.
func (l *lan) newPeer(addr string) *peer {
	l.t.Helper()
	client := fetch.New(fetch.Config{Sources: func() []string { return []string{l.URL} }})
	l.t.Cleanup(client.Close)
	v := l.verifier(l.t.TempDir(), clock.New(time.Now(), nil), client, "cam-0")
	if _, err := v.Images(l.t.Context(), l.pin); err != nil {
		l.t.Fatal(err)
	}
	site := peerstest.Site(l.t, l.ca, "cam-0", addr, nil, func(o *peers.Options) {
		o.Document = func(sha256 string) []byte {
			if l.besides != nil && its(l.besides) == sha256 {
				return l.besides
			}
			return v.Document(sha256)
		}
	})
	takesPart(l.t, site)
	return &peer{assemble.Downloads{Client: client, Peers: site, Log: slog.New(slog.DiscardHandler)}, l, filepath.Join(l.t.TempDir(), "staging"), 0}
}

func takesPart(t *testing.T, s *peers.Site) {
	t.Helper()
	devtest.Eventually(t, devtest.Patience, "a device to take part", devtest.True(func() bool { return s.Out() == "" }))
}

// fetch has a peer get more than so much of the artifact from the origin.
func (p *peer) fetch(least int64) {
	p.l.t.Helper()
	ctx, stop := context.WithCancel(p.l.t.Context())
	defer stop()
	err := p.Artifact(ctx, p.l.artifact, p.path, func(have int64, _ topics.Transfer) {
		if p.have = have; have > least && have < p.l.artifact.Length {
			stop()
		}
	})
	if err != nil && ctx.Err() == nil || p.have < least {
		p.l.t.Fatalf("%d bytes: %v", p.have, err)
	}
}

// near is a device that wants the release, and may not download it.
type near struct {
	*Driver
	l       *lan
	slots   shelf
	trust   string // the directory of what it trusts
	dir     string // the journal's
	journal *journal.Journal
	allowed *allowance.Allowance
	began   time.Time
	later   atomic.Int64 // by its clock, in nanoseconds
	up      atomic.Int64 // by its uptime, likewise
	ended   chan update.Event
	doing   context.Context // ends with what it does
	stop    func()          // ends it
}

// now is its clock, which the test sets.
func (n *near) now() time.Time { return n.began.Add(time.Duration(n.later.Load())) }

// member is what a device of a site is told.
type member struct {
	idle
	l *lan
}

func (m member) World() decide.World {
	later := time.Now().AddDate(3, 0, 0)
	return decide.World{
		Assigned: true, Assignment: topics.Assignment{Cohorts: []string{"lobby"}}, AssignmentUntil: later,
		Manifests: map[string]topics.Manifest{"lobby": {Images: &m.l.pin, Entries: []topics.Entry{m.l.entry}}},
		Until:     map[string]time.Time{"lobby": later}, View: decide.View{Live: true},
	}
}

// newNear is a device with an allowance, that knows others at these places.
func (l *lan) newNear(cfg allowance.Config, conditions condition.Config, w *wake.Wake, static ...string) *near {
	l.t.Helper()
	n := &near{l: l, trust: l.t.TempDir(), began: time.Now(), slots: shelf{&bank{}, filepath.Join(l.t.TempDir(), "staging")}, ended: make(chan update.Event, 1)}
	log := slog.New(slog.DiscardHandler)
	clk := clock.NewFrom(n.began.Add(-time.Hour), n.now, func() time.Duration { return time.Since(n.began) + time.Duration(n.up.Load()) })
	n.dir = l.t.TempDir()
	j, err := journal.Open(n.dir, time.Now(), log)
	if err != nil {
		l.t.Fatal(err)
	}
	n.journal = j
	n.allowed = allowance.New(cfg, "cam-1", clk, log)
	n.allowed.Remember(j, func() *time.Location { return time.UTC })
	client := fetch.New(fetch.Config{Sources: func() []string { return append([]string{l.URL}, l.mirrors...) }, Allowance: n.allowed, Wake: w, BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond})
	l.t.Cleanup(client.Close)
	site := peerstest.Site(l.t, l.ca, "cam-1", "127.0.0.1:0", static, nil)
	takesPart(l.t, site)
	downloads := assemble.Downloads{Client: client, Peers: site, Again: 20 * time.Millisecond, Log: log}
	world := member{l: l}
	n.Driver = New(Config{
		Component: "system", Device: "cam-1", Model: "cam-a", Allowance: n.allowed, Wake: w,
		Peers: &assemble.Nearby{Downloads: downloads}, PeersAgain: backoff.Range{Min: 20 * time.Millisecond, Max: 20 * time.Millisecond},
	}, NewDevice(world, conditions), n.slots, l.verifier(n.trust, clk, client, "cam-1"), downloads, j, clk, log)
	n.dep = journal.Deployment{State: update.Downloading, Cohort: "lobby", Attempt: 1, From: "1.0.0", Entry: l.entry}
	return n
}

// daily is a budget that all of it fits into.
var daily = allowance.Config{DailyBudget: 8 << 20}

// spent is a device whose budget is used up.
func (l *lan) spent(static ...string) *near {
	l.t.Helper()
	n := l.newNear(daily, condition.Config{}, nil, static...)
	spend(l.t, n.allowed, int(daily.DailyBudget))
	// Just before the next day, it looks every second.
	n.later.Store(int64(n.journal.Snapshot().Usage.Until.Add(-time.Second).Sub(n.began)))
	return n
}

// tomorrow has the next day begin, which it sees by itself.
func (n *near) tomorrow() { n.later.Add(int64(time.Minute)) }

// begins has it fetch until the end of the test, or until it has it.
func (n *near) begins() { n.does(n.fetch) }

// does has it perform something until the end of the test, or until that ends.
func (n *near) does(what func(context.Context) (update.Event, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	n.doing = ctx
	go func() {
		defer close(done)
		defer cancel()
		event, err := what(ctx)
		if err != nil && ctx.Err() == nil {
			n.l.t.Error(err)
		}
		n.ended <- event
	}()
	n.stop = func() { cancel(); <-done }
	n.l.t.Cleanup(n.stop)
}

// fetched waits until it has the artifact.
func (n *near) fetched() {
	n.l.t.Helper()
	select {
	case event := <-n.ended:
		if data, err := os.ReadFile(n.slots.path); event != update.Fetched || err != nil || !bytes.Equal(data, n.l.data) {
			n.l.t.Fatalf("%q, %d bytes, %v: %s %s", event, len(data), err, n.dep.Reason, n.dep.Detail)
		}
	case <-time.After(devtest.Patience):
		n.l.t.Fatal("it does not end")
	}
}

// rests waits until it waits for a reason, and returns what it has said so far.
func (n *near) rests(reason string) (list []topics.Status) {
	n.l.t.Helper()
	devtest.Eventually(n.l.t, devtest.Patience, "the device to wait", func() error {
		if r, ok := n.Rest(); !ok || r.Reason != reason {
			return fmt.Errorf("%+v", r)
		}
		list = n.said()
		if len(list) == 0 || list[len(list)-1].Reason != reason {
			return fmt.Errorf("it says %+v", list)
		}
		return nil
	})
	return list
}

func (n *near) said() (list []topics.Status) {
	for _, report := range n.journal.Snapshot().Queue {
		s, err := topics.DecodeStatus(report.Payload)
		if err != nil {
			n.l.t.Error(err)
		}
		list = append(list, s)
	}
	return list
}
