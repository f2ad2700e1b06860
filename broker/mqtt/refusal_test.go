package mqtt

import (
	"strings"
	"testing"
	"time"

	"groundswell/internal/mqttclient"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// refusals is a member of a group that reads what was refused to a device.
type refusals struct {
	*peer
	device string
}

func (n *node) refusals(device string) refusals {
	n.t.Helper()
	fleetd := n.fleetd("fleetd-registry")
	fleetd.subscribe(topics.Share(topics.GroupRegistry, topics.Uplink))
	return refusals{fleetd, device}
}

func (r refusals) nextRefusal() topics.Refusal {
	r.t.Helper()
	m := r.nextOf(topics.DeviceRefusal(r.device))
	refusal, err := topics.DecodeRefusal(m.Payload)
	if err != nil {
		r.t.Fatal(err)
	}
	return refusal
}

// TestRefusalOfADeviceIsToldToFleetd: whatever a device may not do ends up in
// the store, under its own name.
func TestRefusalOfADeviceIsToldToFleetd(t *testing.T) {
	n := startNode(t)
	told := n.refusals("cam-1")
	check := func(action topics.RefusedAction, reason, topic, client string) {
		t.Helper()
		got := told.nextRefusal()
		if got.Action != action || got.Reason != reason || got.Topic != topic || got.Client != client || got.Node != "node-1" || got.Detail == "" {
			t.Errorf("got %+v, want %s %s %q of %q", got, action, reason, topic, client)
		}
	}
	dev := n.device("cam-1")
	_ = dev.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus("cam-2"), Payload: []byte("x"), QoS: 1}) // refused
	check(topics.RefusedPublish, "not-authorized", topics.DeviceStatus("cam-2"), "cam-1")
	_ = dev.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus("cam-1"), Payload: make([]byte, topics.MaxStatus+1), QoS: 1}) // refused
	check(topics.RefusedPublish, "payload-size", topics.DeviceStatus("cam-1"), "cam-1")
	long := "elsewhere/" + strings.Repeat("é", 300)
	_ = dev.trySubscribe(long) // refused
	check(topics.RefusedSubscribe, "not-authorized", long[:topics.MaxRefusalText], "cam-1")

	n.rawDial(deviceCredential(t, "cam-1"), 5).connect("cam-2", nil)
	check(topics.RefusedConnect, "client-id", "", "cam-2")
	n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", nil).write([]byte{packets.Publish<<4 | 2, 3, 0, 9, 'a'})
	check(topics.RefusedPacket, "malformed", "", "cam-1")
}

// TestOnlyTheBrokerTellsOfRefusals: a device cannot accuse anybody.
func TestOnlyTheBrokerTellsOfRefusals(t *testing.T) {
	n := startNode(t)
	dev := n.device("cam-1")
	for _, id := range []string{"cam-1", "cam-2"} {
		err := dev.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceRefusal(id), Payload: []byte("{}"), QoS: 1})
		if code := refusal(t, err); code != 0x87 {
			t.Errorf("%s: 0x%02x", id, code)
		}
	}
}

// TestRefusalsDoNotFillTheStore: a device that goes on doing what it may not,
// over as many connections as it likes, is told of a few times.
func TestRefusalsDoNotFillTheStore(t *testing.T) {
	n := startNode(t)
	told := n.refusals("cam-1")
	now := time.Now()
	n.edge.told.all.SetBurstAt(now, 5) // of everybody, so that time plays no part
	n.edge.told.all.SetLimitAt(now, 0)
	for range 3 {
		dev := n.device("cam-1")
		for range maxAudits + 1 {
			_ = dev.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus("cam-2"), QoS: 1}) // refused
		}
	}
	n.device("cam-1").publish(topics.DeviceStatus("cam-1"), "last")
	count := 0
	for m := told.next(); m.Topic != topics.DeviceStatus("cam-1"); m = told.next() {
		if m.Topic == topics.DeviceRefusal("cam-1") {
			count++
		}
	}
	if count != 5 {
		t.Errorf("%d refusals were stored, want 5", count)
	}
}

func TestEachDeviceHasItsOwnShareOfRefusals(t *testing.T) {
	limits, now := newTellings(), time.Unix(1_000_000, 0)
	admitted := func(device string, times int, at time.Time) (n int) {
		for range times {
			if limits.admit(device, at) {
				n++
			}
		}
		return n
	}
	if n := admitted("cam-1", 100, now); n != tellBurst {
		t.Errorf("at once: %d", n)
	}
	if n := admitted("cam-2", 1, now); n != 1 {
		t.Error("another device pays for it")
	}
	if n := admitted("cam-1", 100, now.Add(3*time.Minute)); n != 3 {
		t.Errorf("after three minutes: %d", n)
	}
	limits.forget(now.Add(4 * time.Minute))
	if n := len(limits.devices); n != 1 {
		t.Errorf("%d devices are remembered, want only the one that was refused just now", n)
	}
	limits.forget(now.Add(time.Hour))
	if n := len(limits.devices); n != 0 {
		t.Errorf("%d devices are remembered after an hour", n)
	}
}
