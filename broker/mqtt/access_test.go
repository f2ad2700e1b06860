package mqtt

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"groundswell/broker/session"
	"groundswell/certs"
	"groundswell/internal/mqttclient"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// refusal is the code of a refusal, 0 for success.
func refusal(t *testing.T, err error) byte {
	t.Helper()
	if err == nil {
		return 0
	}
	code, ok := mqttclient.Refused(err)
	if !ok {
		t.Fatalf("not a refusal: %v", err)
	}
	return code
}

// TestAccessMatrixOverTheWire asks for every topic, as publisher and as
// subscriber, as the device itself, as another device and as fleetd.
func TestAccessMatrixOverTheWire(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd")
	fleetd.assign("dev", 1, `"mine"`)
	dev, other := n.device("dev"), n.device("other")

	type want struct{ devPub, devSub, otherPub, otherSub, fleetdPub, fleetdSub bool }
	matrix := map[string]want{
		topics.CohortManifest("mine"):    {devSub: true, fleetdPub: true, fleetdSub: true},
		topics.CohortManifest("theirs"):  {fleetdPub: true, fleetdSub: true},
		topics.DeviceAssignment("dev"):   {devSub: true, fleetdPub: true, fleetdSub: true},
		topics.DeviceCommand("dev"):      {devSub: true, fleetdPub: true, fleetdSub: true},
		topics.DeviceStatus("dev"):       {devPub: true, fleetdSub: true},
		topics.DeviceHeartbeat("dev"):    {devPub: true, fleetdSub: true},
		topics.DeviceLog("dev"):          {devPub: true, fleetdSub: true},
		topics.DevicePresence("dev"):     {fleetdSub: true},
		topics.DeviceRefusal("dev"):      {fleetdSub: true},
		"fleet/v1/devices/dev/unheard":   {fleetdSub: true},
		"fleet/v2/devices/dev/status":    {},
		"$SYS/broker/version":            {},
		"elsewhere":                      {},
		topics.DeviceStatus("dev") + "/": {fleetdSub: true},
	}
	filters := map[string]want{ // only subscribing makes sense
		"#":                       {},
		"fleet/v1/#":              {fleetdSub: true},
		topics.AllManifests:       {fleetdSub: true},
		topics.AllAssignments:     {fleetdSub: true},
		topics.Uplink:             {fleetdSub: true},
		"fleet/v1/devices/dev/+":  {fleetdSub: true},
		"fleet/v1/cohorts/mine/#": {fleetdSub: true},
		topics.Share(topics.GroupRegistry, topics.Uplink):              {fleetdSub: true},
		topics.Share(topics.GroupRegistry, topics.DeviceStatus("dev")): {},
		topics.Share("undeclared", topics.Uplink):                      {},
		"$share/registry": {},
	}
	check := func(who string, p *peer, topic string, wantPub, wantSub, publish bool) {
		if publish {
			version := int64(time.Now().UnixNano())
			if strings.Contains(topic, "/assignment") {
				version = 2
			}
			payload := "x"
			if strings.HasSuffix(topic, "/assignment") {
				payload = assignment(`"mine"`)
			}
			var err error
			if name, perr := topics.Parse(topic); perr == nil && name.Kind.Retained() {
				err = p.retain(topic, version, payload)
			} else {
				err = p.Publish(t.Context(), mqttclient.Publication{Topic: topic, Payload: []byte(payload), QoS: 1})
			}
			if code := refusal(t, err); (code < 0x80) != wantPub || (code != 0 && code != 0x87) {
				t.Errorf("%s publishes %q: 0x%02x, want allowed=%v", who, topic, code, wantPub)
			}
		}
		if code := refusal(t, p.trySubscribe(topic)); (code == 0) != wantSub {
			t.Errorf("%s subscribes %q: 0x%02x, want allowed=%v", who, topic, code, wantSub)
		}
	}
	for topic, w := range matrix {
		check("device", dev, topic, w.devPub, w.devSub, true)
		check("other device", other, topic, w.otherPub, w.otherSub, true)
		check("fleetd", fleetd, topic, w.fleetdPub, w.fleetdSub, true)
	}
	for filter, w := range filters {
		check("device", dev, filter, false, w.devSub, false)
		check("other device", other, filter, false, w.otherSub, false)
		check("fleetd", fleetd, filter, false, w.fleetdSub, false)
	}
}

func TestRefusedSubscriptionsSayWhy(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd")
	for filter, want := range map[string]byte{
		topics.Share("undeclared", topics.Uplink):                          0x87,
		topics.Share(topics.GroupRegistry, "fleet/v1/devices/+/heartbeat"): 0x8F,
	} {
		err := fleetd.trySubscribe(filter)
		var refused *mqttclient.RefusedError
		if !errors.As(err, &refused) || refused.Code != want || !strings.Contains(refused.Reason, "declared") {
			t.Errorf("%s: %v", filter, err)
		}
	}
}

func TestClientIDMustBelongToTheCertificate(t *testing.T) {
	n := startNode(t)
	for _, c := range []struct {
		credential certs.Credential
		id         string
		ok         bool
	}{
		{deviceCredential(t, "cam-1"), "cam-2", false},
		{deviceCredential(t, "cam-1"), "", false},
		{deviceCredential(t, "cam-1"), "cam-1-x", false},
		{deviceCredential(t, "fleetd"), "fleetd", true}, // a device that is called so is a device
		{deviceCredential(t, "fleetd"), "fleetd-registry", false},
		{serviceCredential(t, "fleetd"), "fleetd-registry", true},
		{serviceCredential(t, "fleetd"), "fleetd2", false},
		{serviceCredential(t, "fleetd"), "cam-1", false},
	} {
		r := n.rawDial(c.credential, 5)
		code := r.connect(c.id, nil).ReasonCode
		if (code == 0) != c.ok || (!c.ok && code != 0x85) {
			t.Errorf("client id %q: CONNACK 0x%02x, want ok=%v", c.id, code, c.ok)
		}
		old := n.rawDial(c.credential, 4)
		if code := old.connect(c.id, nil).ReasonCode; (code == 0) != c.ok || (!c.ok && code != 2) {
			t.Errorf("3.1.1 client id %q: CONNACK 0x%02x, want ok=%v", c.id, code, c.ok)
		}
	}
	// Whoever is neither device nor fleetd has no business here.
	operator, err := authority().IssueOperator("alice", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if code := n.rawDial(operator, 5).connect("alice", nil).ReasonCode; code != 0x87 {
		t.Errorf("operator: CONNACK 0x%02x", code)
	}
}

func TestCertificatesOfOthersAreRefused(t *testing.T) {
	n := startNode(t)
	foreign, err := certs.NewCA(domain, time.Now().Add(-time.Hour), time.Hour*2)
	if err != nil {
		t.Fatal(err)
	}
	credential, err := foreign.IssueDevice("cam-1", "cam-a", "r1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cfg := n.config(deviceCredential(t, "cam-1"), "cam-1")
	cfg.TLS = cfg.TLS.Clone()
	cfg.TLS.Certificates[0] = credential.TLS()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if s, err := mqttclient.Dial(ctx, cfg); err == nil {
		s.Close()
		t.Fatal("a certificate of another authority was let in")
	}
}

// TestWillTakesTheWayOfReports: mochi would publish any will on any topic.
func TestWillTakesTheWayOfReports(t *testing.T) {
	n := startNode(t)
	will := func(topic string) func(*packets.Packet) {
		return func(pk *packets.Packet) {
			pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, topic, []byte("gone")
		}
	}
	r := n.rawDial(deviceCredential(t, "cam-1"), 5)
	if code := r.connect("cam-1", will(topics.CohortManifest("all"))).ReasonCode; code != 0x87 {
		t.Fatalf("a will on a manifest: CONNACK 0x%02x", code)
	}
	fleetd := n.fleetd("fleetd-registry")
	fleetd.subscribe(topics.Share(topics.GroupRegistry, topics.Uplink))
	r = n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", will(topics.DeviceStatus("cam-1")))
	_ = r.conn.Close()
	if m := fleetd.nextOf(topics.DeviceStatus("cam-1")); string(m.Payload) != "gone" {
		t.Fatalf("got %q", m.Payload)
	}
	// An orderly farewell cancels it.
	r = n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", will(topics.DeviceStatus("cam-1")))
	r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	eventually(t, "the farewell to be heard", func() bool { c, _ := n.edge.counts(); return c == 1 }) // fleetd's
	dev := n.device("cam-1")
	dev.publish(topics.DeviceStatus("cam-1"), "back")
	if m := fleetd.nextOf(topics.DeviceStatus("cam-1")); string(m.Payload) != "back" {
		t.Fatalf("got %q", m.Payload)
	}
}

func TestLeavingACohortEndsTheSubscription(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd")
	dev := n.device("cam-1")
	if code := refusal(t, dev.trySubscribe(topics.CohortManifest("a"))); code != 0x87 {
		t.Fatalf("without an assignment: 0x%02x", code)
	}
	dev.subscribe(topics.DeviceAssignment("cam-1"))
	fleetd.assign("cam-1", 1, `"a","b"`)
	dev.nextOf(topics.DeviceAssignment("cam-1"))
	dev.subscribe(topics.CohortManifest("a"), topics.CohortManifest("b"))
	fleetd.mustRetain(topics.CohortManifest("a"), 1, "a1")
	if m := dev.next(); string(m.Payload) != "a1" {
		t.Fatalf("got %q", m.Payload)
	}
	fleetd.assign("cam-1", 2, `"b"`)
	dev.nextOf(topics.DeviceAssignment("cam-1"))
	fleetd.mustRetain(topics.CohortManifest("a"), 2, "a2")
	fleetd.mustRetain(topics.CohortManifest("b"), 1, "b1")
	if m := dev.next(); string(m.Payload) != "b1" {
		t.Fatalf("got %q of a cohort that the device has left", m.Payload)
	}
	if code := refusal(t, dev.trySubscribe(topics.CohortManifest("a"))); code != 0x87 {
		t.Fatalf("after leaving: 0x%02x", code)
	}
}

// TestReadingForASubscriptionThatHasEndedBringsNothing: the broker may still be
// reading what is retained for a subscription when the device leaves the cohort.
func TestReadingForASubscriptionThatHasEndedBringsNothing(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd")
	fleetd.assign("cam-1", 1, `"a"`)
	fleetd.mustRetain(topics.CohortManifest("a"), 1, "a1")
	dev := n.device("cam-1")
	n.edge.mu.Lock()
	c := n.edge.clients["cam-1"].conn
	n.edge.mu.Unlock()
	// Both ways of reading, as if the device had just left.
	n.edge.sendRetainedOne(c, session.Subscription{Filter: topics.CohortManifest("a"), QoS: 1},
		topics.Name{Kind: topics.KindManifest, ID: "a"})
	n.edge.sendRetainedAll(c, session.Subscription{Filter: topics.AllManifests, QoS: 1})
	dev.subscribe(topics.DeviceAssignment("cam-1"))
	if m := dev.next(); m.Topic != topics.DeviceAssignment("cam-1") {
		t.Fatalf("got %q of a cohort that the device has left", m.Payload)
	}
}

func TestMalformedAssignmentIsRefusedAndNothingChanges(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd")
	fleetd.assign("cam-1", 1, `"a"`)
	for _, bad := range []string{`{`, `{"signed":{"groundswell":{"cohorts":["-"]}}}`, `{"signed":{"groundswell":{"cohorts":"a"}}}`} {
		if code := refusal(t, fleetd.retain(topics.DeviceAssignment("cam-1"), 2, bad)); code != 0x83 {
			t.Errorf("%s: 0x%02x", bad, code)
		}
	}
	dev := n.device("cam-1")
	dev.subscribe(topics.DeviceAssignment("cam-1"), topics.CohortManifest("a"))
	if m := dev.next(); string(m.Payload) != assignment(`"a"`) {
		t.Errorf("got %q", m.Payload)
	}
}

func TestRevocationEndsALiveSession(t *testing.T) {
	n := startNode(t)
	credential := deviceCredential(t, "cam-1")
	r := n.rawConnect(credential, 5, "cam-1", nil)
	other := n.device("cam-2")
	n.revoke(2, certs.Revocation{Serial: credential.Certificate.SerialNumber, At: time.Now()})
	r.expectEnd(0x87)
	other.publish(topics.DeviceStatus("cam-2"), "still here")
	// And it does not come back.
	cfg := n.config(credential, "cam-1")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if s, err := mqttclient.Dial(ctx, cfg); err == nil {
		s.Close()
		t.Fatal("a revoked device was let in")
	}
}

// TestRevokedBetweenHandshakeAndConnect: nobody knew of the connection when the
// list changed.
func TestRevokedBetweenHandshakeAndConnect(t *testing.T) {
	n := startNode(t)
	credential := deviceCredential(t, "cam-1")
	r := n.rawDial(credential, 5)
	n.revoke(2, certs.Revocation{Serial: credential.Certificate.SerialNumber, At: time.Now()})
	eventually(t, "the list in use", func() bool { return n.edge.revocations.Check(credential.Certificate) != nil })
	n.edge.housekeeping(time.Now(), true, &rounds{})
	if code := r.connect("cam-1", nil).ReasonCode; code == 0 {
		r.expectEnd(0x87)
	}
}

func TestCertificateThatRunsOutEndsTheSession(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	credential, err := authority().IssueDevice("cam-1", "cam-a", "r1", soon+time.Second) // whole seconds count
	if err != nil {
		t.Fatal(err)
	}
	n.rawConnect(credential, 5, "cam-1", nil).expectEnd(0x87)
}
