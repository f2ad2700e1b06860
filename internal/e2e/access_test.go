package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/stack"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// TestDeviceMayNotSpeakForAnother: publishing for another device, and reading
// what is not its own, is refused with "not authorized", audited, and changes
// nothing.
func TestDeviceMayNotSpeakForAnother(t *testing.T) {
	p := start(t, 2, stack.Options{WithoutInflux: true})
	r := p.rollout()
	mallory, victim := p.devices[0], p.devices[1]
	p.connect(mallory)
	s := status(r, topics.StateFailed)
	s.Schema, s.Component, s.Attempt, s.Epoch, s.Sequence, s.BootID, s.Running, s.Clock, s.At = 1, "system", 1, 1, 1, "boot-1", before, topics.ClockTrusted, time.Now().UTC().Truncate(time.Second)
	payload, err := topics.Encode(s)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, err error) {
		t.Helper()
		if code, ok := mqttclient.Refused(err); !ok || code != 0x87 {
			t.Errorf("%s: got %v, want a refusal with 0x87", what, err)
		}
	}
	session := mallory.Session()
	refused("publish", session.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus(victim.ID), Payload: payload, QoS: 1}))
	for _, filter := range []string{topics.DeviceAssignment(victim.ID), topics.DeviceCommand(victim.ID), topics.CohortManifest("other"), "#", topics.Uplink, topics.Share("registry", topics.Uplink)} {
		refused("subscribe "+filter, session.Subscribe(t.Context(), []mqttclient.Subscription{{Filter: filter, QoS: 1}}))
	}
	p.mustAudit(mallory.ID, "refused.publish", "refused.subscribe")
	// A report of its own arrives behind the refused one: that one is nowhere.
	n, err := mallory.Report(t.Context(), status(r, topics.StateDownloading))
	if err != nil {
		t.Fatal(err)
	}
	p.mustHold(mallory.ID, []int64{n})
	if have, err := p.stored(victim.ID); err != nil || len(have) != 0 {
		t.Errorf("the victim has reports %v, %v", have, err)
	}
}

// mustAudit waits until the trail of a device names the actions, and an alert
// the device.
func (p *platform) mustAudit(device string, actions ...string) {
	p.t.Helper()
	var trail struct {
		Items []struct{ Actor, Action string }
	}
	devtest.Eventually(p.t, 0, "the audit", func() error {
		if err := p.API(p.t.Context(), http.MethodGet, "/v1/audit?object=device/"+device, nil, &trail); err != nil {
			return err
		}
		for _, action := range actions {
			if !slices.ContainsFunc(trail.Items, func(e struct{ Actor, Action string }) bool { return e.Actor == "broker" && e.Action == action }) {
				return fmt.Errorf("no %s in %+v", action, trail.Items)
			}
		}
		return nil
	})
	var alerts struct {
		Items []struct{ Kind, Object string }
	}
	if err := p.API(p.t.Context(), http.MethodGet, "/v1/alerts", nil, &alerts); err != nil {
		p.t.Fatal(err)
	}
	if !slices.Contains(alerts.Items, struct{ Kind, Object string }{"refused", "device/" + device}) {
		p.t.Errorf("no alert about %s: %+v", device, alerts.Items)
	}
}

// TestStrangersDoNotConnect: no certificate, one of another authority, or one
// that names another device than the client id, ends before anything is said.
func TestStrangersDoNotConnect(t *testing.T) {
	p := start(t, 1, stack.Options{WithoutInflux: true})
	other, err := certs.NewCA(p.TrustDomain, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := p.CA()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.IssueDevice("dev-000", model, "rev1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ours.IssueDevice("dev-999", model, "rev1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for what, credential := range map[string]certs.Credential{"another authority": foreign, "another device's id": own} {
		config, err := certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: ours.Authority()}, certs.ServiceBroker)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		session, err := mqttclient.Dial(ctx, mqttclient.Config{Servers: []string{p.BrokerURL()}, TLS: config, ClientID: "dev-000"})
		cancel()
		if err == nil {
			session.Close()
			t.Errorf("%s was let in", what)
		} else if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s was left waiting: %v", what, err)
		}
	}
}
