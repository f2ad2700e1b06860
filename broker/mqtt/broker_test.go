package mqtt

import (
	"strconv"
	"testing"

	"groundswell/topics"
)

func TestStatusReachesTheGroupWithItsStamps(t *testing.T) {
	n := startNode(t)
	dev := n.device("cam-1")
	dev.publish(topics.DeviceStatus("cam-1"), "one") // before any member is there
	fleetd := n.fleetd("fleetd-registry")
	fleetd.subscribe(topics.Share(topics.GroupRegistry, topics.Uplink))
	dev.publish(topics.DeviceStatus("cam-1"), "two")

	first := fleetd.nextOf(topics.DeviceStatus("cam-1"))
	second := fleetd.nextOf(topics.DeviceStatus("cam-1"))
	if string(first.Payload) != "one" || string(second.Payload) != "two" {
		t.Fatalf("got %q, %q", first.Payload, second.Payload)
	}
	for key, want := range map[string]string{topics.PropShard: "0", topics.PropModel: "cam-a", topics.PropHardware: "r1"} {
		if got, _ := first.Property(key); got != want {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
	one, _ := first.Property(topics.PropSequence)
	two, _ := second.Property(topics.PropSequence)
	a, _ := strconv.Atoi(one)
	b, _ := strconv.Atoi(two)
	if a < 1 || b <= a {
		t.Errorf("sequences %q, %q", one, two)
	}
	if ms, _ := first.Property(topics.PropStored); len(ms) != 13 {
		t.Errorf("stored at %q", ms)
	}
}

func TestManifestIsRetainedOverARestart(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd")
	fleetd.assign("cam-1", 1, `"canary"`)
	fleetd.mustRetain(topics.CohortManifest("canary"), 7, "manifest 7")
	n.restart()
	dev := n.device("cam-1")
	dev.subscribe(topics.DeviceAssignment("cam-1"), topics.CohortManifest("canary"))
	if m := dev.next(); m.Topic != topics.DeviceAssignment("cam-1") || !m.Retained {
		t.Fatalf("got %s, retained %v", m.Topic, m.Retained)
	}
	m := dev.next()
	if v, _ := m.Property(topics.PropVersion); string(m.Payload) != "manifest 7" || v != "7" || !m.Retained {
		t.Fatalf("got %q version %q retained %v", m.Payload, v, m.Retained)
	}
	// And live.
	n.fleetd("fleetd").mustRetain(topics.CohortManifest("canary"), 8, "manifest 8")
	if m := dev.next(); string(m.Payload) != "manifest 8" || m.Retained {
		t.Fatalf("got %q retained %v", m.Payload, m.Retained)
	}
}
