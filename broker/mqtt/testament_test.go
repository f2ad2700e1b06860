package mqtt

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// heard is what the registry's group got, by topic.
type heard struct {
	mu   sync.Mutex
	what map[string][]string
}

// listen subscribes to the group on a node.
func listen(n *node) *heard {
	n.t.Helper()
	h := &heard{what: map[string][]string{}}
	p := n.dial(serviceCredential(n.t, "fleetd"), "fleetd-registry", func(c *mqttclient.Config) {
		c.OnMessage = func(m mqttclient.Message) {
			h.mu.Lock()
			defer h.mu.Unlock()
			text := string(m.Payload)
			if p, err := topics.DecodePresence(m.Payload); err == nil {
				text = fmt.Sprint(p.Connected, " ", p.Reason)
			}
			h.what[m.Topic] = append(h.what[m.Topic], text)
		}
	})
	p.subscribe(topics.Share(topics.GroupRegistry, topics.Uplink))
	return h
}

// awaitHandled waits until the store knows that the registry's group has handled all
// that there is.
func (n *node) awaitHandled() {
	n.t.Helper()
	eventually(n.t, "all to be acknowledged", func() bool {
		g, _ := n.stored.Group(topics.GroupRegistry)
		backlog, err := g.Backlog(n.t.Context())
		return err == nil && backlog == 0
	})
}

func (h *heard) count(topic, text string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, got := range h.what[topic] {
		if got == text {
			n++
		}
	}
	return n
}

func withWill(device, text string, delay uint32) func(*packets.Packet) {
	return func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 3600, true
		pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, topics.DeviceStatus(device), []byte(text)
		pk.Connect.WillProperties.WillDelayInterval = delay
	}
}

// TestADeadNodesDevicesAreLostAndTheirWillsPublished: by the others, once, though
// the node never comes back.
func TestADeadNodesDevicesAreLostAndTheirWillsPublished(t *testing.T) {
	t.Parallel()
	nodes := startTrio(t)
	h := listen(nodes[0])
	credential := deviceCredential(t, "returns")
	nodes[2].rawConnect(deviceCredential(t, "now"), 5, "now", withWill("now", "gone", 0))
	nodes[2].rawConnect(deviceCredential(t, "later"), 5, "later", withWill("later", "gone", 1))
	nodes[2].rawConnect(credential, 5, "returns", withWill("returns", "gone", 3600))
	nodes[2].rawConnect(deviceCredential(t, "said-goodbye"), 5, "said-goodbye", withWill("said-goodbye", "gone", 0)).
		send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	nodes[1].rawConnect(deviceCredential(t, "elsewhere"), 5, "elsewhere", withWill("elsewhere", "gone", 0))
	for _, id := range []string{"now", "later", "returns", "elsewhere"} {
		eventually(t, id+" to be there", func() bool { return h.count(topics.DevicePresence(id), "true ") == 1 })
	}
	eventually(t, "a farewell", func() bool { return h.count(topics.DevicePresence("said-goodbye"), "false client") == 1 })
	nodes[2].crash()
	for _, id := range []string{"now", "later", "returns"} {
		devtest.Eventually(t, 2*time.Minute, id+" to be reported lost", devtest.True(func() bool { return h.count(topics.DevicePresence(id), "false lost") > 0 }))
	}
	for _, id := range []string{"now", "later"} {
		devtest.Eventually(t, 2*time.Minute, "the will of "+id, devtest.True(func() bool { return h.count(topics.DeviceStatus(id), "gone") > 0 }))
	}
	back := nodes[0].dial(credential, "returns", kept)
	if !back.SessionPresent {
		t.Error("the session of the one that came back is gone")
	}
	// The node itself finds nothing left to do.
	nodes[2].start()
	nodes[2].device("marker").publish(topics.DeviceStatus("marker"), "x")
	eventually(t, "the marker", func() bool { return h.count(topics.DeviceStatus("marker"), "x") == 1 })
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range []string{"elsewhere", "returns", "said-goodbye"} {
		if got := h.what[topics.DeviceStatus(id)]; got != nil {
			t.Errorf("will of %s: %v", id, got)
		}
	}
	for _, id := range []string{"now", "later"} {
		if got := h.what[topics.DeviceStatus(id)]; len(got) != 1 {
			t.Errorf("will of %s: %v", id, got)
		}
	}
	// It may be told once more: what the group acknowledged last may have died with the node.
	if got := h.what[topics.DevicePresence("elsewhere")]; slices.ContainsFunc(got, func(p string) bool { return p != "true " }) {
		t.Errorf("connected to a node that lives: %q", got)
	}
}

// TestAWillIsPublishedOnceThoughTheBrokerIsKilled: after a delay that ends while
// nobody runs; and not again at the start after.
func TestAWillIsPublishedOnceThoughTheBrokerIsKilled(t *testing.T) {
	n := startNode(t)
	h := listen(n)
	n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", withWill("cam-1", "gone", 1))
	eventually(t, "it to be there", func() bool { return h.count(topics.DevicePresence("cam-1"), "true ") == 1 })
	n.crash()
	n.start()
	h = listen(n)
	eventually(t, "the will", func() bool { return h.count(topics.DeviceStatus("cam-1"), "gone") == 1 })
	n.awaitHandled() // what is not acknowledged before the end comes again, rightly
	n.restart()
	h = listen(n)
	n.device("marker").publish(topics.DeviceStatus("marker"), "x")
	eventually(t, "the marker", func() bool { return h.count(topics.DeviceStatus("marker"), "x") == 1 })
	if h.count(topics.DeviceStatus("cam-1"), "gone") != 0 || h.count(topics.DevicePresence("cam-1"), "false lost") != 0 {
		t.Errorf("again: %v", h.what)
	}
}

// TestAWillIsPublishedThoughItsClientIsFaster: the client is back, elsewhere or at
// the same node, before anybody has dealt with the one that died.
func TestAWillIsPublishedThoughItsClientIsFaster(t *testing.T) {
	t.Parallel()
	nodes := startTrio(t)
	h := listen(nodes[0])
	for i, id := range []string{"elsewhere", "same"} {
		credential := deviceCredential(t, id)
		nodes[2].rawConnect(credential, 5, id, withWill(id, "gone", 0))
		eventually(t, id+" to be there", func() bool { return h.count(topics.DevicePresence(id), "true ") == 1 })
		nodes[0].awaitHandled() // else it may come again, the will from before as well
		nodes[2].crash()
		again := nodes[1]
		if i == 1 {
			nodes[2].start()
			again = nodes[2]
		}
		devtest.Eventually(t, time.Minute, id+" to be let in", func() error { // while they elect
			s, err := mqttclient.Dial(t.Context(), again.config(credential, id))
			if err == nil {
				t.Cleanup(func() { s.Close() })
			}
			return err
		})
		eventually(t, "the will of "+id, func() bool { return h.count(topics.DeviceStatus(id), "gone") > 0 })
		if i == 0 {
			nodes[2].start()
		}
	}
	nodes[1].device("marker").publish(topics.DeviceStatus("marker"), "x")
	eventually(t, "the marker", func() bool { return h.count(topics.DeviceStatus("marker"), "x") == 1 })
	for _, id := range []string{"elsewhere", "same"} {
		if n := h.count(topics.DeviceStatus(id), "gone"); n != 1 {
			t.Errorf("will of %s: %d times", id, n)
		}
	}
}

// TestANodeThatIsCutOffLetsItsClientsGo: others will take its sessions for
// ownerless, so it must not go on serving them.
func TestANodeThatIsCutOffLetsItsClientsGo(t *testing.T) {
	t.Parallel()
	nodes := startTrio(t)
	dev := nodes[0].dial(deviceCredential(t, "cam-1"), "cam-1", kept)
	nodes[1].crash()
	nodes[2].crash()
	select {
	case <-dev.Done():
	case <-time.After(2 * time.Minute):
		t.Fatal("still served")
	}
	if code, ok := mqttclient.Refused(dev.Err()); !ok || code != 0x89 {
		t.Errorf("ended with %v", dev.Err())
	}
	r := nodes[0].rawDial(deviceCredential(t, "cam-2"), 5)
	if code := r.connect("cam-2", nil).ReasonCode; code != 0x88 {
		t.Errorf("CONNACK 0x%02x without a majority", code)
	}
	nodes[1].start()
	devtest.Eventually(t, 2*time.Minute, "it to be served again", func() error {
		s, err := mqttclient.Dial(t.Context(), nodes[0].config(deviceCredential(t, "cam-1"), "cam-1"))
		if err == nil {
			s.Close()
		}
		return err
	})
}

// TestANodeThatIsCutOffStops: though it can store nothing, and nobody answers.
func TestANodeThatIsCutOffStops(t *testing.T) {
	t.Parallel()
	nodes := startTrio(t)
	nodes[0].dial(deviceCredential(t, "cam-1"), "cam-1", kept)
	nodes[1].crash()
	nodes[2].crash()
	devtest.Eventually(t, 2*time.Minute, "it to be cut off", func() error {
		if nodes[0].stored.Ready(t.Context()) == nil {
			return errors.New("it says that it is ready")
		}
		return nil
	})
	stopped := make(chan struct{})
	go func() { nodes[0].stop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(2 * time.Minute):
		t.Fatal("it does not stop")
	}
}
