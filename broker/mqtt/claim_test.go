package mqtt

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"groundswell/broker/cluster"
	"groundswell/certs"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// startTrio starts three brokers that are one.
func startTrio(t *testing.T, options ...option) []*node {
	t.Helper()
	routes := devtest.FreeAddresses(t, 3)
	var nodes []*node
	for i := range 3 {
		n := newNode(t, options...)
		credential, err := authority().IssueService(certs.ServiceBroker, nil, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		peers, err := certs.PeerTLS(certs.TLSOptions{Credential: credential, Authority: authority().Authority()}, certs.ServiceBroker)
		if err != nil {
			t.Fatal(err)
		}
		n.cfg.Node = fmt.Sprintf("node-%d", i+1)
		n.store.Node = n.cfg.Node
		n.store.Peering = &cluster.Peering{Cluster: "test", Listen: routes[i], Routes: routes, TLS: peers, Replicas: 3}
		nodes = append(nodes, n)
	}
	all(nodes, (*node).start)
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { all(nodes, func(n *node) { n.stop() }) })
	return nodes
}

func all(nodes []*node, do func(*node)) {
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() { do(n) })
	}
	wg.Wait()
}

// kept makes the session outlive the connection.
func kept(cfg *mqttclient.Config) { cfg.SessionExpiry = time.Hour }

func TestASessionFollowsItsClientToAnyNode(t *testing.T) {
	t.Parallel()
	nodes := startTrio(t)
	fleetd := nodes[2].fleetd("fleetd")
	fleetd.assign("cam-1", 1, `"eu"`)
	fleetd.mustRetain(topics.CohortManifest("eu"), 1, "one")
	credential := deviceCredential(t, "cam-1")
	p := nodes[0].dial(credential, "cam-1", kept)
	if p.SessionPresent {
		t.Fatal("a session before the first")
	}
	p.subscribe(topics.DeviceAssignment("cam-1"), topics.CohortManifest("eu"))
	if m := p.nextOf(topics.CohortManifest("eu")); string(m.Payload) != "one" {
		t.Fatalf("got %s", m.Payload)
	}
	p.Close() // without a DISCONNECT
	fleetd.mustRetain(topics.CohortManifest("eu"), 2, "two")

	// Elsewhere it goes on: nothing is subscribed to again, and what came
	// meanwhile comes now.
	p = nodes[1].dial(credential, "cam-1", kept)
	if !p.SessionPresent {
		t.Fatal("the session was not on the second node")
	}
	if m := p.nextOf(topics.CohortManifest("eu")); string(m.Payload) != "two" {
		t.Fatalf("got %s", m.Payload)
	}
	eventually(t, "the first node to forget it", func() bool { _, sessions := nodes[0].edge.counts(); return sessions == 0 })

	// While it is connected, too: the second node lets go.
	q := nodes[0].dial(credential, "cam-1", kept)
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatal("it is connected twice")
	}
	if code, ok := mqttclient.Refused(p.Err()); !ok || code != 0x8E {
		t.Errorf("taken over: %v", p.Err())
	}
	if !q.SessionPresent {
		t.Error("taken over without its session")
	}
	q.nextOf(topics.CohortManifest("eu"))

	// What it has left is gone everywhere.
	if err := q.Unsubscribe(t.Context(), []string{topics.CohortManifest("eu")}); err != nil {
		t.Fatal(err)
	}
	q.Close()
	q = nodes[1].dial(credential, "cam-1", kept)
	if q.nextOf(topics.DeviceAssignment("cam-1")); !q.SessionPresent {
		t.Error("no session")
	}
	fleetd.mustRetain(topics.CohortManifest("eu"), 3, "three")
	fleetd.assign("cam-1", 2, `"us"`)
	if m := q.next(); m.Topic != topics.DeviceAssignment("cam-1") {
		t.Errorf("got %s", m.Topic)
	}

	// Its node dies; and a clean start forgets.
	q.Close()
	nodes[1].stop()
	eventually(t, "the others to take it", func() bool {
		p, err := mqttclient.Dial(t.Context(), nodes[0].config(credential, "cam-1"))
		if err != nil {
			return false
		}
		defer p.Close()
		return p.SessionPresent
	})
	q = nodes[2].dial(credential, "cam-1", func(cfg *mqttclient.Config) { cfg.CleanStart = true })
	if q.SessionPresent {
		t.Error("a clean start found a session")
	}
}

// TestConcurrentConnectsEndWithOneOwner: and what is published meanwhile is not lost.
func TestConcurrentConnectsEndWithOneOwner(t *testing.T) {
	t.Parallel()
	nodes := startTrio(t, withLimits(func(l *Limits) { l.TakeoversPerMinute = 1_000_000 }))
	credential := deviceCredential(t, "cam-1")
	command := topics.DeviceCommand("cam-1")
	first := nodes[0].dial(credential, "cam-1", kept)
	first.subscribe(command)
	first.Close()
	fleetd := nodes[0].fleetd("fleetd")
	var mu sync.Mutex
	heard := map[string]bool{}
	listen := func(n *node) (*mqttclient.Session, error) {
		cfg := n.config(credential, "cam-1")
		kept(&cfg)
		cfg.OnMessage = func(m mqttclient.Message) {
			mu.Lock()
			defer mu.Unlock()
			heard[string(m.Payload)] = true
		}
		return mqttclient.Dial(context.WithoutCancel(t.Context()), cfg)
	}
	const rounds = 200
	for round := range rounds {
		sessions, refused := make([]*mqttclient.Session, 4), make([]error, 4)
		var wg sync.WaitGroup
		for i := range sessions {
			wg.Go(func() { sessions[i], refused[i] = listen(nodes[(round+i)%3]) }) // an error if another was faster
		}
		fleetd.publish(command, fmt.Sprint(round))
		wg.Wait()
		live := func() (n int) {
			for i, s := range sessions {
				if refused[i] != nil {
					continue
				}
				select {
				case <-s.Done():
				default:
					n++
				}
			}
			return n
		}
		eventually(t, fmt.Sprintf("round %d: one live session", round), func() bool { return live() <= 1 })
		owners := 0
		for _, n := range nodes {
			conns, _ := n.edge.counts()
			owners += conns
		}
		if live() != 1 || owners > 5 { // with fleetd
			t.Fatalf("round %d: %d live sessions, %d connections, refused: %v", round, live(), owners, refused)
		}
		for i, s := range sessions {
			if refused[i] == nil {
				s.Close()
			}
		}
	}
	last, err := listen(nodes[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for round := range rounds {
			if !heard[fmt.Sprint(round)] {
				t.Errorf("command %d did not arrive", round)
			}
		}
	})
	eventually(t, "every command to arrive", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(heard) == rounds
	})
	last.Close()
	fleetd.Close()
	eventually(t, "every connection to end", func() bool {
		owners := 0
		for _, n := range nodes {
			conns, _ := n.edge.counts()
			owners += conns
		}
		return owners == 0
	})
}

// TestWhatWaitsForADeviceSurvivesItsNode: 500 commands come while the device is
// away and its node dies; on another it gets all of them, in order.
func TestWhatWaitsForADeviceSurvivesItsNode(t *testing.T) {
	t.Parallel()
	nodes := startTrio(t, withLimits(func(l *Limits) { l.SessionQueueMessages = 100 })) // the rest stays in the stream
	credential := deviceCredential(t, "cam-1")
	dev := nodes[0].dial(credential, "cam-1", kept)
	dev.subscribe(topics.DeviceCommand("cam-1"))
	fleetd := nodes[1].fleetd("fleetd")
	command := func(i int) { fleetd.publish(topics.DeviceCommand("cam-1"), fmt.Sprint(i)) }
	for i := range 10 {
		command(i)
		if m := dev.next(); string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("got %s, want %d", m.Payload, i)
		}
	}
	dev.Close()
	for i := range 250 {
		command(10 + i)
	}
	nodes[0].stop()
	for i := range 250 {
		devtest.Eventually(t, 0, "a command to be stored", func() error { // while the two elect
			return fleetd.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceCommand("cam-1"), Payload: fmt.Append(nil, 260+i), QoS: 1})
		})
	}
	dev = nodes[2].dial(credential, "cam-1", kept)
	if !dev.SessionPresent {
		t.Fatal("the session died with its node")
	}
	last := 9
	for last < 509 {
		var i int
		if _, err := fmt.Sscan(string(dev.next().Payload), &i); err != nil || i > last+1 {
			t.Fatalf("got %d after %d, %v", i, last, err)
		}
		last = max(last, i) // one that was tried again may come twice
	}
	command(510)
	if m := dev.next(); string(m.Payload) != "510" {
		t.Errorf("got %s afterwards", m.Payload)
	}
	eventually(t, "the inbox to be empty", func() bool { n, err := nodes[2].stored.Inbox().Waiting(t.Context()); return err == nil && n == 0 })
}

// TestWhatDoesNotFitIntoTheQueueComesLater: it stays in the inbox, and comes when
// there is room, also after the broker was started anew.
func TestWhatDoesNotFitIntoTheQueueComesLater(t *testing.T) {
	n := startNode(t, withLimits(func(l *Limits) { l.SessionQueueMessages = 5 }))
	for id, between := range map[string]func(){"cam-1": func() {}, "cam-2": n.restart} {
		credential := deviceCredential(t, id)
		dev := n.dial(credential, id, kept)
		dev.subscribe(topics.DeviceCommand(id))
		dev.Close()
		eventually(t, "the device gone", func() bool { c, _ := n.edge.counts(); return c == 0 })
		fleetd := n.fleetd("fleetd")
		for i := range 40 {
			fleetd.publish(topics.DeviceCommand(id), fmt.Sprint(i))
		}
		// It takes three at a time, and acknowledges none.
		r := n.rawConnect(credential, 5, id, func(pk *packets.Packet) {
			pk.Connect.Clean = false
			pk.Properties.ReceiveMaximum = 3
			pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 3600, true
		})
		for i := range 3 {
			if pk := r.expect(packets.Publish); string(pk.Payload) != fmt.Sprint(i) {
				t.Fatalf("%s got %s, want %d", id, pk.Payload, i)
			}
		}
		_ = r.conn.Close()
		fleetd.Close()
		between()
		dev = n.dial(credential, id, kept)
		if !dev.SessionPresent {
			t.Fatalf("the session of %s is gone", id)
		}
		for i := range 40 {
			if m := dev.next(); string(m.Payload) != fmt.Sprint(i) {
				t.Fatalf("%s got %s, want %d", id, m.Payload, i)
			}
		}
		dev.Close()
		eventually(t, "the device gone", func() bool { c, _ := n.edge.counts(); return c == 0 })
	}
}

// TestNothingIsMissedBetweenReadingAndLive: a session that falls behind and
// catches up again and again, while messages come.
func TestNothingIsMissedBetweenReadingAndLive(t *testing.T) {
	n := startNode(t, withLimits(func(l *Limits) { l.SessionQueueMessages = 1 }))
	dev := n.dial(deviceCredential(t, "cam-1"), "cam-1", func(c *mqttclient.Config) { c.ReceiveMaximum = 1 })
	dev.subscribe(topics.DeviceCommand("cam-1"))
	const publishers, each = 8, 250
	fleetd := n.fleetd("fleetd")
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				err := fleetd.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceCommand("cam-1"), Payload: fmt.Append(nil, p, " ", i), QoS: 1})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	var next [publishers]int
	for range publishers * each {
		var p, i int
		m := dev.next()
		if _, err := fmt.Sscan(string(m.Payload), &p, &i); err != nil || i != next[p] {
			t.Fatalf("got %q, want number %d, %v", m.Payload, next[p], err)
		}
		next[p]++
	}
	wg.Wait()
}

// TestAFlappingIdIsHeldBack: of two who take an id from one another all the time,
// one keeps it, and fleetd is told.
func TestAFlappingIdIsHeldBack(t *testing.T) {
	n := startNode(t, withLimits(func(l *Limits) { l.TakeoversPerMinute = 1 }))
	h := listen(n)
	credential := deviceCredential(t, "cam-1")
	for _, version := range []byte{5, 4} {
		var last, refused *raw
		for i := 0; refused == nil && i < 2*flapBurst; i++ {
			r := n.rawDial(credential, version)
			switch code := r.connect("cam-1", nil).ReasonCode; {
			case code == 0:
				last = r
			case code == 0x9F && version == 5, code == 3 && version == 4:
				refused = r
			default:
				t.Fatalf("CONNACK 0x%02x", code)
			}
		}
		if refused == nil || version == 5 && last == nil {
			t.Fatalf("version %d: all of them were let in", version)
		}
		if last != nil {
			last.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 1, TopicName: topics.DeviceStatus("cam-1"), Payload: []byte("x")})
			last.expect(packets.Puback)
		}
	}
	eventually(t, "fleetd to be told", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.what[topics.DeviceRefusal("cam-1")]) > 0
	})
	// Another is not concerned, and neither is one who comes when nobody is there.
	n.device("cam-2")
	eventually(t, "nobody there", func() bool {
		n.edge.mu.Lock()
		cl := n.edge.clients["cam-1"]
		n.edge.mu.Unlock()
		if cl == nil {
			return true
		}
		cl.mu.Lock()
		c := cl.conn
		cl.mu.Unlock()
		if c != nil {
			c.disconnect(packets.CodeDisconnect, "test")
		}
		return c == nil
	})
	devtest.Eventually(t, 0, "it to be let in", func() error {
		if code := n.rawDial(credential, 5).connect("cam-1", nil).ReasonCode; code != 0 {
			return fmt.Errorf("CONNACK 0x%02x", code)
		}
		return nil
	})
}
