package mqttclient_test

import (
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// TestCheckInInOneFlight: the broker handles what left with CONNECT, and resumes the
// TLS session of the wake before.
func TestCheckInInOneFlight(t *testing.T) {
	f := newFleet(t)
	cfg := f.device("cam-1")
	cfg.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for wake := range 3 {
		s, err := mqttclient.DialWith(t.Context(), cfg, mqttclient.Flight{
			Subscribe: []mqttclient.Subscription{{Filter: topics.DeviceCommand("cam-1"), QoS: 1}, {Filter: topics.DeviceAssignment("cam-2"), QoS: 1}},
			Publish:   []mqttclient.Publication{{Topic: topics.DeviceStatus("cam-1"), Payload: []byte("{}"), QoS: 1}, {Topic: topics.DeviceStatus("cam-2"), Payload: []byte("{}"), QoS: 1}},
		})
		if err != nil {
			t.Fatal(err)
		}
		landing, err := s.Landed(t.Context())
		if err != nil || landing.Published[0] != nil {
			t.Fatalf("landed: %v, %+v", err, landing)
		}
		for _, refused := range []error{landing.Subscribed, landing.Published[1]} {
			if code, ok := mqttclient.Refused(refused); !ok || code != mqttclient.CodeNotAuthorized {
				t.Errorf("what is another device's: %v", refused)
			}
		}
		if s.Timing.Resumed != (wake > 0) || s.SessionPresent != (wake > 0) {
			t.Errorf("wake %d: resumed %v, session present %v", wake, s.Timing.Resumed, s.SessionPresent)
		}
		s.Disconnect()
	}
}

// TestRefusedResumptionIsForgotten: a device whose certificate was renewed and the old
// one revoked is not shut out by the session that it had with the old one.
func TestRefusedResumptionIsForgotten(t *testing.T) {
	f := newFleet(t)
	list := f.file + ".crl"
	f.revoke(list, 1)
	f.config["tls"].(map[string]string)["crl"] = list
	f.broker.Kill()
	f.start()
	old, err := f.ca.IssueDevice("cam-1", "m1", "a", time.Hour)
	cfg := f.connection("cam-1", old, err)
	cfg.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	connect := func(resumed bool) error {
		s, err := mqttclient.Dial(t.Context(), cfg)
		if err != nil {
			return err
		}
		defer s.Disconnect()
		if s.Timing.Resumed != resumed {
			t.Errorf("resumed %v, want %v", s.Timing.Resumed, resumed)
		}
		return nil
	}
	for _, resumed := range []bool{false, true} {
		if err := connect(resumed); err != nil {
			t.Fatal(err)
		}
	}
	next, err := f.ca.IssueDevice("cam-1", "m1", "a", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	f.revoke(list, 2, old)
	cfg.TLS.Certificates = []tls.Certificate{next.TLS()}
	// At first the resumed session shows the old certificate, and is refused.
	devtest.Eventually(t, 30*time.Second, "the refusal", func() error {
		if connect(true) != nil {
			return nil
		}
		return errors.New("still taken")
	})
	if err := connect(false); err != nil {
		t.Errorf("with the renewed certificate: %v", err)
	}
}

// revoke writes a list of revoked certificates.
func (f *fleet) revoke(path string, number int64, list ...certs.Credential) {
	f.t.Helper()
	now := time.Now()
	var revoked []certs.Revocation
	for _, c := range list {
		revoked = append(revoked, certs.Revocation{Serial: c.Certificate.SerialNumber, At: now})
	}
	data, err := f.ca.SignCRL(number, revoked, now, now.Add(time.Hour))
	if err == nil {
		err = certs.WritePublicFile(path, data)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}
