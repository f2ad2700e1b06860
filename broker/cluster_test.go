package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// nodes are brokers that are one, each a process.
type nodes []*process

// startCluster builds and starts three.
func startCluster(t *testing.T, more string) nodes {
	t.Helper()
	return startClusterOf(t, newSite(t), more)
}

func startClusterOf(t *testing.T, s *site, more string) nodes {
	t.Helper()
	mqtts, peers := devtest.FreeAddresses(t, 3), devtest.FreeAddresses(t, 3)
	var all nodes
	for i := range 3 {
		all = append(all, s.broker(fmt.Sprintf("node-%d", i+1), mqtts[i], fmt.Sprintf(
			"cluster: {name: test, listen: %q, routes: [\"%s\"]}\n%s", peers[i], strings.Join(peers, `", "`), more)))
	}
	all.start()
	return all
}

// start starts all at once: none is ready before the others are there.
func (n nodes) start() {
	n[0].t.Helper()
	var starting sync.WaitGroup
	for _, p := range n {
		starting.Go(p.start)
	}
	starting.Wait()
	if n[0].t.Failed() {
		n[0].t.FailNow()
	}
}

// TestNothingAcknowledgedIsLostWhenNodesAreKilled: devices report to whichever
// node is there while one after another is killed; whatever was acknowledged
// reaches the group, on a node that need not be the one that took it.
func TestNothingAcknowledgedIsLostWhenNodesAreKilled(t *testing.T) {
	t.Parallel()
	all := startCluster(t, "shards: 2")
	const devices = 6
	y := newTally(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var reporting sync.WaitGroup
	for i := range devices {
		reporting.Go(func() {
			device := fmt.Sprintf("cam-%d", i)
			for turn := i; ctx.Err() == nil; turn++ {
				s, err := all[turn%3].device(device)
				if err != nil {
					select { // it is down
					case <-time.After(100 * time.Millisecond):
					case <-ctx.Done():
					}
					continue
				}
				for failures := 0; failures < 3 && ctx.Err() == nil; {
					if y.report(ctx, s, device) != nil {
						failures++
					} else {
						failures = 0
					}
				}
				s.Close()
			}
		})
	}
	more := func(what string) {
		t.Helper()
		before := y.count()
		devtest.Eventually(t, 2*time.Minute, what, devtest.True(func() bool { return y.count() > before+500 }))
	}
	for i, p := range all {
		more("reports before a kill")
		p.Kill()
		more(fmt.Sprintf("reports without node %d", i+1))
		p.start()
	}
	stop()
	reporting.Wait()
	y.collect(all[1])
}

// fleet are devices that connect to whichever node lets them in, report without a
// pause, and connect again when they are sent away.
type fleet struct {
	*tally
	nodes    nodes
	mu       sync.Mutex // guards what follows
	connects map[string]int
	ends     map[string][]string // how connections ended, by device
	working  sync.WaitGroup
}

// report starts devices that report until ctx ends, each with a pause after each
// report.
func (f *fleet) report(ctx context.Context, devices int, pause time.Duration) {
	f.connects, f.ends = map[string]int{}, map[string][]string{}
	var servers []string
	for _, p := range f.nodes {
		servers = append(servers, "mqtts://"+p.Addr("mqtt"))
	}
	for i := range devices {
		f.working.Go(func() {
			id := fmt.Sprintf("cam-%d", i)
			for ctx.Err() == nil {
				turn := i + f.connected(id)
				s, err := f.nodes[0].deviceOn(append(slices.Clone(servers[turn%len(servers):]), servers[:turn%len(servers)]...), id)
				if err != nil {
					select { // none lets it in
					case <-time.After(50 * time.Millisecond):
					case <-ctx.Done():
					}
					continue
				}
				f.mu.Lock()
				f.connects[id]++
				f.mu.Unlock()
				f.use(ctx, s, id, pause)
			}
		})
	}
}

// use reports on one connection until it ends.
func (f *fleet) use(ctx context.Context, s *mqttclient.Session, id string, pause time.Duration) {
	defer s.Close()
	for ctx.Err() == nil {
		_ = f.tally.report(ctx, s, id) // what was not acknowledged does not count
		select {
		case <-s.Done():
			f.mu.Lock()
			f.ends[id] = append(f.ends[id], fmt.Sprint(s.Err()))
			f.mu.Unlock()
			return
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// present is how many devices have a connection that has not ended.
func (f *fleet) present() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, connects := range f.connects {
		n += connects - len(f.ends[id])
	}
	return n
}

func (f *fleet) connected(id string) int { f.mu.Lock(); defer f.mu.Unlock(); return f.connects[id] }

// TestARollingRestartLosesNothing: each node is stopped and started in turn. The
// devices of a node are sent away once, and nobody else is.
func TestARollingRestartLosesNothing(t *testing.T) {
	t.Parallel()
	const devices = 30
	all := startCluster(t, "shards: 2")
	f := &fleet{tally: newTally(t), nodes: all}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	f.report(ctx, devices, 20*time.Millisecond)
	for i, p := range all {
		devtest.Eventually(t, time.Minute, "every device to be there", devtest.True(func() bool { return f.present() == devices }))
		before := map[string]int{}
		for d := range devices {
			id := fmt.Sprintf("cam-%d", d)
			before[id] = f.connected(id)
		}
		if err := p.Stop(time.Minute); err != nil {
			t.Fatal(err)
		}
		reported := f.count()
		devtest.Eventually(t, 2*time.Minute, fmt.Sprintf("reports without node %d", i+1), devtest.True(func() bool { return f.count() > reported+10*devices }))
		for id, n := range before {
			if now := f.connected(id); now > n+1 {
				t.Errorf("node %d stopped: %s connected %d times more", i+1, id, now-n)
			}
		}
		p.start()
		p.ready()
	}
	stop()
	f.working.Wait()
	for id, ends := range f.ends {
		for _, end := range ends {
			if !strings.Contains(end, "0x8B") {
				t.Errorf("%s: a connection ended with: %s", id, end)
			}
		}
	}
	f.collect(all[1])
}

// TestAManifestReachesDevicesOnEveryNode: also one that was published while the
// device's node was away, and never an older one.
func TestAManifestReachesDevicesOnEveryNode(t *testing.T) {
	t.Parallel()
	all := startCluster(t, "")
	topic := topics.CohortManifest("a")
	retain := func(p *process, version int) {
		t.Helper()
		devtest.Eventually(t, time.Minute, fmt.Sprintf("version %d to be retained", version), func() error {
			s, err := p.service("fleetd-publisher", nil)
			if err != nil {
				return err // while the cluster elects
			}
			defer s.Close()
			return s.Publish(t.Context(), mqttclient.Publication{
				Topic: topic, Payload: fmt.Append(nil, version), QoS: 1, Retain: true,
				Properties: []mqttclient.Property{{Key: topics.PropVersion, Value: strconv.Itoa(version)}},
			})
		})
	}
	var newest [3]atomic.Int64
	watch := func(i int) {
		t.Helper()
		s := all[i].fleetd(fmt.Sprintf("fleetd-%d", i), func(m mqttclient.Message) {
			v, err := strconv.ParseInt(string(m.Payload), 10, 64)
			if err != nil || v < newest[i].Load() {
				t.Errorf("node %d: %s after %d", i+1, m.Payload, newest[i].Load())
			}
			newest[i].Store(v)
		})
		if err := s.Subscribe(t.Context(), []mqttclient.Subscription{{Filter: topic, QoS: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	eventually := func(version int64, on ...int) {
		t.Helper()
		devtest.Eventually(t, time.Minute, fmt.Sprintf("version %d on nodes %v", version, on), func() error {
			for _, i := range on {
				if v := newest[i].Load(); v != version {
					return fmt.Errorf("node %d has %d", i+1, v)
				}
			}
			return nil
		})
	}
	for i := range all {
		watch(i)
	}
	retain(all[0], 1)
	eventually(1, 0, 1, 2)
	all[2].Kill()
	retain(all[1], 2)
	eventually(2, 0, 1)
	all[2].start()
	watch(2)
	eventually(2, 2)
	retain(all[2], 3)
	eventually(3, 0, 1, 2)
}

// TestANodeThatSleepsLetsItsDevicesGo: the others take it for dead; when it wakes
// up, the devices that it thinks it has must connect anew, or they would count as
// lost for ever.
func TestANodeThatSleepsLetsItsDevicesGo(t *testing.T) {
	t.Parallel()
	all := startCluster(t, "")
	p := newPresences(t, all[0])
	devtest.Eventually(t, 0, "the device to be let in", func() error {
		credential, err := all[2].ca.IssueDevice("cam-1", "cam-a", "r1", time.Hour)
		if err != nil {
			return err
		}
		// It must not end the connection by itself, because nobody answers its pings.
		s, err := all[2].dial(credential, mqttclient.Config{Servers: []string{"mqtts://" + all[2].Addr("mqtt")}, ClientID: "cam-1", KeepAlive: 10 * time.Minute})
		if err != nil {
			return err
		}
		t.Cleanup(func() { s.Close() })
		p.session = s
		return nil
	})
	devtest.Eventually(t, time.Minute, "it to be there", p.has("cam-1", true))
	if err := all[2].Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, 2*time.Minute, "it to be reported lost", p.has("cam-1", false))
	select {
	case <-p.session.Done():
		t.Fatal("the connection ended while the node slept")
	default:
	}
	if err := all[2].Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.session.Done():
	case <-time.After(time.Minute):
		t.Fatal("it is served, though everybody takes it for lost")
	}
	all[2].ready()
}

// presences is what the registry's group is told of devices.
type presences struct {
	session *mqttclient.Session // of a device
	mu      sync.Mutex          // guards told
	told    map[string][]topics.Presence
}

func newPresences(t *testing.T, on *process) *presences {
	t.Helper()
	p := &presences{told: map[string][]topics.Presence{}}
	subscribed := on.fleetd("fleetd-registry", func(m mqttclient.Message) {
		name, err := topics.Parse(m.Topic)
		if err != nil || name.Kind != topics.KindPresence {
			return
		}
		presence, err := topics.DecodePresence(m.Payload)
		if err != nil {
			t.Errorf("presence: %v", err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.told[name.ID] = append(p.told[name.ID], presence)
	})
	if err := subscribed.Subscribe(t.Context(), []mqttclient.Subscription{{Filter: topics.Share(topics.GroupRegistry, topics.Uplink), QoS: 1}}); err != nil {
		t.Fatal(err)
	}
	return p
}

// has is a condition: the device was reported connected, or not.
func (p *presences) has(id string, connected bool) func() error {
	return func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, told := range p.told[id] {
			if told.Connected == connected {
				return nil
			}
		}
		return fmt.Errorf("%+v", p.told[id])
	}
}

// TestOnlyTheKilledNodesDevicesAreReportedLost: a node that comes back reports
// those that it had, and nobody who is connected to another.
func TestOnlyTheKilledNodesDevicesAreReportedLost(t *testing.T) {
	t.Parallel()
	all := startCluster(t, "")
	connect := func(p *process, id string) {
		t.Helper()
		devtest.Eventually(t, 0, id+" to be let in", func() error {
			s, err := p.device(id)
			if err == nil {
				t.Cleanup(func() { s.Close() })
			}
			return err
		})
	}
	p := newPresences(t, all[1])
	connect(all[0], "cam-stays") // its record is older than that of the lost one
	devtest.Eventually(t, time.Minute, "cam-stays to be there", p.has("cam-stays", true))
	connect(all[2], "cam-lost")
	devtest.Eventually(t, time.Minute, "cam-lost to be there", p.has("cam-lost", true))
	all[2].Kill()
	all[2].start()
	devtest.Eventually(t, time.Minute, "cam-lost to be reported", p.has("cam-lost", false))
	if p.has("cam-stays", false)() == nil {
		t.Errorf("reported lost while connected: %+v", p.told["cam-stays"])
	}
}

// TestARevocationReachesEveryNode: the list is given to one of them.
func TestARevocationReachesEveryNode(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	all := startClusterOf(t, s, "")
	credential, err := s.ca.IssueDevice("cam-1", "cam-a", "r1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var sessions []*mqttclient.Session
	for i, p := range all {
		id := fmt.Sprintf("cam-%d", i)
		if credential, err = s.ca.IssueDevice(id, "cam-a", "r1", time.Hour); err != nil {
			t.Fatal(err)
		}
		var session *mqttclient.Session
		devtest.Eventually(t, 0, id+" to be let in", func() (err error) { // nodes refuse while they elect
			session, err = p.client(credential, id, nil)
			return err
		})
		defer session.Close()
		sessions = append(sessions, session)
	}
	list, err := s.ca.SignCRL(2, []certs.Revocation{{Serial: credential.Certificate.SerialNumber, At: time.Now()}}, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := certs.WritePublicFile(s.path("node-1.crl"), list); err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, 0, "the session on the third node to end", func() error {
		select {
		case <-sessions[2].Done():
			return nil
		default:
			return errors.New("it goes on")
		}
	})
	for i, session := range sessions[:2] {
		if session.Err() != nil {
			t.Errorf("the device on node %d was sent away too: %v", i+1, session.Err())
		}
	}
	devtest.Eventually(t, 0, "the list in every node's file", func() error {
		for i := range all {
			if got, err := os.ReadFile(s.path(fmt.Sprintf("node-%d.crl", i+1))); err != nil || !bytes.Equal(got, list) {
				return fmt.Errorf("node %d: %w", i+1, err)
			}
		}
		return nil
	})
	for i, p := range all {
		if _, err := p.client(credential, "cam-2", nil); err == nil {
			t.Errorf("node %d lets it in", i+1)
		}
	}
	// A node that comes back with an older file gets the newer list, and does not
	// undo it.
	all[2].Kill()
	old, err := s.ca.SignCRL(1, nil, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := certs.WritePublicFile(s.path("node-3.crl"), old); err != nil {
		t.Fatal(err)
	}
	all[2].start()
	devtest.Eventually(t, 0, "the newer list in its file", func() error {
		if got, err := os.ReadFile(s.path("node-3.crl")); err != nil || !bytes.Equal(got, list) {
			return errors.Join(err, errors.New("it is another"))
		}
		return nil
	})
	if _, err := all[0].client(credential, "cam-2", nil); err == nil {
		t.Error("the first node lets it in again")
	}
}
