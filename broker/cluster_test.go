package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// nodes are brokers that are one, each a process.
type nodes []*process

// startCluster builds and starts three.
func startCluster(t *testing.T, more string) nodes {
	t.Helper()
	ca, err := certs.NewCA(domain, time.Now().Add(-time.Hour), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	credential, err := ca.IssueService(certs.ServiceBroker, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	list, err := ca.SignCRL(1, nil, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		ca.Save(in("ca.crt"), in("ca.key")), credential.Save(in("tls.crt"), in("tls.key")), certs.WritePublicFile(in("crl.pem"), list),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	program, err := devstack.Program(t.Context(), "./broker")
	if err != nil {
		t.Fatal(err)
	}
	mqtts, peers := freeAddresses(t, 3), freeAddresses(t, 3)
	var all nodes
	for i := range 3 {
		name := fmt.Sprintf("node-%d", i+1)
		err := os.WriteFile(in(name+".yaml"), fmt.Appendf(nil, `
node: %s
trust_domain: %s
listen: %s
tls: {cert: %s, key: %s, ca: %s, crl: %s}
data_dir: %s
ops: {listen: "127.0.0.1:0"}
addresses_file: %s
cluster: {name: test, listen: %q, routes: ["%s"]}
%s`, name, domain, mqtts[i], in("tls.crt"), in("tls.key"), in("ca.crt"), in("crl.pem"), in(name), in(name+".json"),
			peers[i], strings.Join(peers, `", "`), more), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, &process{t: t, ca: ca, spec: devstack.Spec{
			Name: name, Path: program, Args: []string{"--config", in(name + ".yaml")},
			AddressesFile: in(name + ".json"), LogFile: in(name + ".log"),
		}})
	}
	// None is ready before the others are there.
	var starting sync.WaitGroup
	for _, p := range all {
		starting.Go(p.start)
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return all
}

func freeAddresses(t *testing.T, n int) (addresses []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses
}

// TestNothingAcknowledgedIsLostWhenNodesAreKilled: devices report to whichever
// node is there while one after another is killed; whatever was acknowledged
// reaches the group, on a node that need not be the one that took it.
func TestNothingAcknowledgedIsLostWhenNodesAreKilled(t *testing.T) {
	t.Parallel()
	all := startCluster(t, "shards: 2")
	const devices = 6
	var mu sync.Mutex // guards acked and total
	acked := map[string][]int{}
	total := 0
	var next [devices]atomic.Int64
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
					n := int(next[i].Add(1))
					err := s.Publish(ctx, mqttclient.Publication{Topic: topics.DeviceStatus(device), Payload: fmt.Append(nil, n), QoS: 1})
					if err != nil { // perhaps stored, perhaps not
						failures++
						continue
					}
					failures = 0
					mu.Lock()
					acked[device] = append(acked[device], n)
					total++
					mu.Unlock()
				}
				s.Close()
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return total }
	more := func(what string) {
		t.Helper()
		before := count()
		devtest.Eventually(t, 2*time.Minute, what, devtest.True(func() bool { return count() > before+500 }))
	}
	for i, p := range all {
		more("reports before a kill")
		p.Kill()
		more(fmt.Sprintf("reports without node %d", i+1))
		p.start()
	}
	stop()
	reporting.Wait()

	got := map[string]map[int]bool{}
	repeated := 0
	subscribed := all[1].fleetd("fleetd-registry", func(m mqttclient.Message) {
		name, err := topics.Parse(m.Topic)
		if err != nil || name.Kind != topics.KindStatus {
			return
		}
		n, err := strconv.Atoi(string(m.Payload))
		if err != nil {
			t.Errorf("got %q", m.Payload)
		}
		mu.Lock()
		defer mu.Unlock()
		if got[name.ID] == nil {
			got[name.ID] = map[int]bool{}
		}
		if got[name.ID][n] {
			repeated++
		}
		got[name.ID][n] = true
	})
	if err := subscribed.Subscribe(t.Context(), []mqttclient.Subscription{{Filter: topics.Share(topics.GroupRegistry, topics.Uplink), QoS: 1}}); err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, 2*time.Minute, "everything acknowledged", func() error {
		mu.Lock()
		defer mu.Unlock()
		for device, list := range acked {
			for _, n := range list {
				if !got[device][n] {
					return fmt.Errorf("%s: %d of %d", device, n, len(list))
				}
			}
		}
		return nil
	})
	t.Logf("%d reports were acknowledged; %d came twice", total, repeated)
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
	var mu sync.Mutex // guards told
	told := map[string][]topics.Presence{}
	subscribed := all[1].fleetd("fleetd-registry", func(m mqttclient.Message) {
		name, err := topics.Parse(m.Topic)
		if err != nil || name.Kind != topics.KindPresence {
			return
		}
		p, err := topics.DecodePresence(m.Payload)
		if err != nil {
			t.Errorf("presence: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		told[name.ID] = append(told[name.ID], p)
	})
	if err := subscribed.Subscribe(t.Context(), []mqttclient.Subscription{{Filter: topics.Share(topics.GroupRegistry, topics.Uplink), QoS: 1}}); err != nil {
		t.Fatal(err)
	}
	has := func(id string, connected bool) func() error {
		return func() error {
			mu.Lock()
			defer mu.Unlock()
			for _, p := range told[id] {
				if p.Connected == connected {
					return nil
				}
			}
			return fmt.Errorf("%+v", told[id])
		}
	}
	connect(all[0], "cam-stays") // its record is older than that of the lost one
	devtest.Eventually(t, time.Minute, "cam-stays to be there", has("cam-stays", true))
	connect(all[2], "cam-lost")
	devtest.Eventually(t, time.Minute, "cam-lost to be there", has("cam-lost", true))
	all[2].Kill()
	all[2].start()
	devtest.Eventually(t, time.Minute, "cam-lost to be reported", has("cam-lost", false))
	if has("cam-stays", false)() == nil {
		t.Errorf("reported lost while connected: %+v", told["cam-stays"])
	}
}
