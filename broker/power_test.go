//go:build long

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/internal/powercut"
	"groundswell/internal/qemu"
	"groundswell/topics"
)

// patience is for machines whose processors are emulated, several at a time.
const patience = 5 * time.Minute

// startMachines starts n brokers that are one, each in a machine of its own;
// Kill cuts its power.
func startMachines(t *testing.T, n int, sync string) nodes {
	t.Helper()
	all := makeMachines(t, n, sync)
	all.boot()
	return all
}

func makeMachines(t *testing.T, n int, sync string) (all nodes) {
	t.Helper()
	s := newSite(t)
	program := devtest.Binaries(t).Broker
	mqtts, opses, peers := devtest.FreeAddresses(t, n), devtest.FreeAddresses(t, n), devtest.FreeAddresses(t, n)
	var routes []string // through the host's loopback
	for _, addr := range peers {
		routes = append(routes, strings.Replace(addr, "127.0.0.1", qemu.HostAddr, 1))
	}
	for i := range n {
		node := fmt.Sprintf("node-%d", i+1)
		files := map[string][]byte{"crl": s.crl}
		for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
			content, err := os.ReadFile(s.path(name))
			if err != nil {
				t.Fatal(err)
			}
			files[name] = content
		}
		files["broker.yaml"] = fmt.Appendf(nil, `
node: %s
trust_domain: %s
listen: ":8883"
tls: {cert: /files/tls.crt, key: /files/tls.key, ca: /files/ca.crt, crl: /files/crl}
data_dir: %s/broker
sync: %s
shards: 2
limits: {uplink_bytes: %d, retained_bytes: %d, inbox_bytes: %d}
ops: {listen: ":9883"}
`, node, domain, powercut.DataDir, sync, 256<<20, 64<<20, 64<<20)
		if n > 1 {
			files["broker.yaml"] = fmt.Appendf(files["broker.yaml"],
				"cluster: {name: test, listen: \":6222\", advertise: %q, routes: [\"%s\"]}\n", routes[i], strings.Join(routes, `", "`))
		}
		spec, err := powercut.Machine{
			Name: node, Dir: s.dir, Program: program, Args: []string{"--config", powercut.FilesDir + "/broker.yaml"}, Files: files,
			Ports: map[string]int{mqtts[i]: 8883, opses[i]: 9883, peers[i]: 6222},
		}.Make(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, &process{t: t, ca: s.ca, spec: spec, addresses: map[string]string{"mqtt": mqtts[i], "ops": opses[i]}})
	}
	return all
}

// boot starts all machines and waits until all are ready.
func (n nodes) boot() {
	n[0].t.Helper()
	began := time.Now()
	for _, p := range n {
		p.start()
	}
	for _, p := range n {
		devtest.Eventually(p.t, patience, "a machine to be ready", func() error {
			select {
			case <-p.Done():
				p.t.Fatalf("the machine has ended:\n%s", p.LogTail(20))
			default:
			}
			return p.readiness()
		})
	}
	n[0].t.Logf("%d machines were ready after %v", len(n), time.Since(began).Round(100*time.Millisecond))
}

// cut takes the power of all machines away at once.
func (n nodes) cut() {
	var cutting sync.WaitGroup
	for _, p := range n {
		cutting.Go(p.Kill)
	}
	cutting.Wait()
}

// member is the only member of a group, on whichever node lets it in, until ctx
// ends.
func (f *fleet) member(ctx context.Context) (stopped *sync.WaitGroup) {
	stopped = &sync.WaitGroup{}
	stopped.Go(func() {
		for turn := 0; ctx.Err() == nil; turn++ {
			s, err := f.nodes[turn%len(f.nodes)].service("fleetd-registry", f.receive)
			if err == nil {
				err = s.Subscribe(ctx, []mqttclient.Subscription{{Filter: topics.Share(topics.GroupRegistry, topics.Uplink), QoS: 1}})
				if err == nil {
					select {
					case <-s.Done():
					case <-ctx.Done():
					}
				}
				s.Close()
			}
			if err != nil {
				select { // none lets it in
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
	})
	return stopped
}

// receiveUntil has a member of the group until cond holds.
func (f *fleet) receiveUntil(what string, cond func() error) {
	f.t.Helper()
	ctx, stop := context.WithCancel(f.t.Context())
	stopped := f.member(ctx)
	defer stopped.Wait()
	defer stop()
	devtest.Eventually(f.t, patience, what, cond)
}

// reporters is how many devices report to machines.
const reporters = 40

// more waits until n more reports are acknowledged.
func (f *fleet) more(n int) {
	f.t.Helper()
	before := f.count()
	devtest.Eventually(f.t, patience, "reports", func() error {
		if got := f.count() - before; got < n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	})
}

// loadAndCut lets devices report until n more reports are acknowledged, and cuts
// the power of all machines while they do.
func (f *fleet) loadAndCut(n int) {
	f.t.Helper()
	ctx, stop := context.WithCancel(f.t.Context())
	defer stop()
	f.report(ctx, reporters, 0)
	f.more(n)
	f.nodes.cut()
	stop()
	f.working.Wait()
}

// TestNothingAcknowledgedIsLostByPowerCuts: devices report to machines whose power
// is cut, of all at once; whatever was acknowledged reaches the group afterwards.
// In every second round the group has a member while the power goes: what it
// acknowledged and the store did not hear of comes twice.
func TestNothingAcknowledgedIsLostByPowerCuts(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d nodes", n), func(t *testing.T) {
			f := &fleet{tally: newTally(t), nodes: startMachines(t, n, "always")}
			for round := range 5 {
				ctx, stop := context.WithCancel(t.Context())
				stopped := &sync.WaitGroup{}
				if round%2 == 1 {
					stopped = f.member(ctx)
				}
				f.loadAndCut(2000)
				stop()
				stopped.Wait()
				f.nodes.boot()
				if round%2 == 0 {
					t.Logf("round %d: %d of %d were left to come", round+1, f.lost(), f.count())
				}
				f.receiveUntil("everything acknowledged", f.missing)
			}
			t.Logf("%d nodes, sync always: %d acknowledged, %d lost, %d came twice", n, f.count(), f.lost(), f.repeated)
		})
	}
}

// TestAPowerCutOfOneNodeOfThreeLosesNothing: the two others go on, and it takes
// part again when it is back; each of the three in turn.
func TestAPowerCutOfOneNodeOfThreeLosesNothing(t *testing.T) {
	f := &fleet{tally: newTally(t), nodes: startMachines(t, 3, "always")}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	f.report(ctx, reporters, 0)
	for _, victim := range f.nodes {
		f.more(500)
		nodes{victim}.cut()
		f.more(500)
		nodes{victim}.boot()
	}
	f.more(500)
	stop()
	f.working.Wait()
	f.receiveUntil("everything acknowledged", f.missing)
	t.Logf("3 nodes, sync always, power cuts of one: %d acknowledged, %d lost, %d came twice", f.count(), f.lost(), f.repeated)
}

// TestWithoutSyncPowerCutsLose is the control of the test above: with the store's
// own interval the same cut loses reports that were acknowledged. If it does not,
// the cut is none.
func TestWithoutSyncPowerCutsLose(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d nodes", n), func(t *testing.T) {
			f := &fleet{tally: newTally(t), nodes: startMachines(t, n, "2m")}
			f.loadAndCut(2000)
			f.nodes.boot()
			// A device's reports come in their order: what has not come when those that
			// are sent now have, never will.
			acknowledged := f.count()
			last := map[string]int{}
			for device := range f.acknowledged {
				devtest.Eventually(t, patience, "a report after the cut", func() error {
					s, err := f.nodes[0].device(device)
					if err != nil {
						return err
					}
					defer s.Close()
					if err := f.tally.report(t.Context(), s, device); err != nil {
						return err
					}
					last[device] = f.next[device]
					return nil
				})
			}
			f.receiveUntil("the reports after the cut", func() error {
				f.tally.mu.Lock()
				defer f.tally.mu.Unlock()
				for device, number := range last {
					if !f.got[device][number] {
						return fmt.Errorf("%s: %d", device, number)
					}
				}
				return nil
			})
			t.Logf("%d nodes, sync 2m: %d acknowledged, %d lost, %d came twice", n, acknowledged, f.lost(), f.repeated)
			if f.lost() == 0 {
				t.Error("nothing was lost: this was no power cut")
			}
		})
	}
}
