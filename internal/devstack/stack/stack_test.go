package stack_test

import (
	"context"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/stack"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// TestThePlatformComesUpAndSurvivesKills publishes a release and a cohort with
// the real fleetctl, and looks at what a device would see, before and after
// broker and fleetd were killed.
func TestThePlatformComesUpAndSurvivesKills(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	s, err := stack.Start(ctx, stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	firmware, err := devstack.Firmware(ctx, "1.0.0", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(ctx, "camera", "1.0.0", firmware, []string{"cam-a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fleetctl(ctx, "cohort", "create", "eu", "--selector", "region=eu"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fleetctl(ctx, "cohort", "show", "nowhere"); stack.ExitCode(err) != 5 {
		t.Errorf("a missing cohort: %v", err)
	}
	retained := func() {
		t.Helper()
		got := make(chan mqttclient.Message, 4)
		session := dial(t, s, func(m mqttclient.Message) { got <- m })
		defer session.Disconnect()
		devtest.Eventually(t, 0, "the retained manifest", func() error {
			err := session.Subscribe(ctx, []mqttclient.Subscription{{Filter: topics.CohortManifest("eu"), QoS: 1}})
			if err != nil {
				return err
			}
			select {
			case m := <-got:
				if !m.Retained || len(m.Payload) == 0 {
					t.Errorf("got %+v", m)
				}
				return nil
			case <-time.After(time.Second):
				return context.DeadlineExceeded
			}
		})
	}
	retained()
	s.Broker.Kill()
	if err := s.RestartBroker(ctx); err != nil {
		t.Fatal(err)
	}
	s.Fleetd.Kill()
	if err := s.RestartFleetd(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	retained()
	var releases struct{ Items []struct{ Version string } }
	if err := s.API(ctx, "GET", "/v1/releases", nil, &releases); err != nil || len(releases.Items) != 1 {
		t.Fatalf("%+v, %v", releases, err)
	}
}

// dial connects as fleetd would, which may read every manifest.
func dial(t *testing.T, s *stack.Stack, on func(mqttclient.Message)) *mqttclient.Session {
	t.Helper()
	ca, err := s.CA()
	if err != nil {
		t.Fatal(err)
	}
	credential, err := ca.IssueService("fleetd", nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	tls, err := certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: ca.Authority()}, certs.ServiceBroker)
	if err != nil {
		t.Fatal(err)
	}
	session, err := mqttclient.Dial(t.Context(), mqttclient.Config{Servers: []string{s.BrokerURL()}, TLS: tls, ClientID: "fleetd-test", OnMessage: on})
	if err != nil {
		t.Fatal(err)
	}
	return session
}
