package e2e

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/stack"
	"groundswell/topics"
)

// expiredAt is the credential of a device that was valid for so long, until a while
// ago: less than an hour, because the authority itself is no older.
func (p *platform) expiredAt(id string, ago, lifetime time.Duration) certs.Credential {
	p.t.Helper()
	ca, err := p.CA()
	if err != nil {
		p.t.Fatal(err)
	}
	key, err := certs.GenerateKey()
	if err != nil {
		p.t.Fatal(err)
	}
	cert, err := ca.Issue(certs.Request{
		Identity:  certs.Identity{TrustDomain: p.TrustDomain, Kind: topics.PrincipalDevice, Name: id, Model: model, Hardware: "rev-a"},
		PublicKey: key.Public(), Now: time.Now().Add(-ago - lifetime), Lifetime: lifetime,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := certs.NewCredential(cert, key)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// renew asks fleetd for a new certificate, as a device does.
func (p *platform) renew(c certs.Credential) (status int, body string, err error) {
	p.t.Helper()
	ca, err := p.CA()
	if err != nil {
		p.t.Fatal(err)
	}
	config, err := certs.ClientTLS(certs.TLSOptions{Credential: c, Authority: ca.Authority()}, certs.ServiceFleetd)
	if err != nil {
		p.t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	resp, err := client.Post("https://"+p.Fleetd.Addr("renewal")+"/renew", "", nil)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(raw), err
}

func renewing() stack.Options {
	return stack.Options{WithoutInflux: true, FleetdConfig: func(cfg stack.Config) {
		tls := cfg["downloads"].(stack.Config)["tls"].(stack.Config)
		ca := tls["ca"].(string)
		cfg.Set("127.0.0.1:0", "renewal", "listen")
		cfg.Set(ca, "renewal", "cert")
		cfg.Set(filepath.Join(filepath.Dir(filepath.Dir(ca)), "offline", "ca.key"), "renewal", "key")
		cfg.Set("20m", "renewal", "grace")
	}}
}

// A device lay in a drawer until its certificate had expired. Nobody touches it.
func TestDeviceWithAnExpiredCertificateComesBackByItself(t *testing.T) {
	p := start(t, 0, renewing())
	ctx := t.Context()
	a, err := p.StartAgent(ctx, stack.AgentOptions{ID: "cam-1", Model: model, Hardware: "rev-a", Config: func(cfg stack.Config) {
		cfg.Set([]string{"https://" + p.Fleetd.Addr("renewal")}, "renewal", "servers")
	}})
	if err != nil {
		t.Fatal(err)
	}
	connected := func(want bool) func() error {
		return func() error {
			devices, err := p.Devices(ctx, url.Values{"connected": {fmt.Sprint(want)}})
			if err != nil || len(devices) != 1 {
				return fmt.Errorf("%d devices, %v", len(devices), err)
			}
			return nil
		}
	}
	devtest.Eventually(t, time.Minute, "the device to be known", connected(true))
	a.Process.Kill()
	devtest.Eventually(t, time.Minute, "the device to be gone", connected(false))

	old := p.expiredAt("cam-1", time.Minute, 30*time.Minute)
	cert, key := filepath.Join(a.Dir, "device.crt"), filepath.Join(a.Dir, "device.key")
	if err := old.Save(cert, key); err != nil {
		t.Fatal(err)
	}
	if a.Process, err = devstack.Start(ctx, a.Process.Spec()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Process.Kill)
	devtest.Eventually(t, time.Minute, "the device to be back", connected(true))
	now, err := certs.LoadCredential(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if !now.Certificate.NotAfter.After(time.Now().AddDate(0, 11, 0)) || now.Certificate.Subject.String() != old.Certificate.Subject.String() {
		t.Errorf("%s until %s", now.Certificate.Subject, now.Certificate.NotAfter)
	}
	p.mustTrail("cam-1", "device.renew")

	// The end: nobody but the device has the file of its certificate.
	if _, err := p.Fleetctl(ctx, "device", "set", "cam-1", "--label", "decommissioned=yes"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Fleetctl(ctx, "keys", "revoke", "--dir", p.Keys, "--serial", fmt.Sprintf("%x", now.Certificate.SerialNumber)); err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, time.Minute, "its session to end", connected(false))
	if status, body, err := p.renew(old); err != nil || status != http.StatusForbidden || !strings.Contains(body, "decommissioned") {
		t.Errorf("with the certificate before that: %d %q, %v", status, body, err)
	}
}

// mustTrail fails unless the audit trail of a device has the action, by fleetd itself.
func (p *platform) mustTrail(device, action string) {
	p.t.Helper()
	var trail struct {
		Items []struct{ Actor, Action string }
	}
	if err := p.API(p.t.Context(), http.MethodGet, "/v1/audit?object=device/"+device, nil, &trail); err != nil {
		p.t.Fatal(err)
	}
	for _, e := range trail.Items {
		if e.Actor == "renewal" && e.Action == action {
			return
		}
	}
	p.t.Errorf("no %s in %+v", action, trail.Items)
}

// Who gets no new certificate, and what is said about it.
func TestCertificateIsRenewedForNobodyElse(t *testing.T) {
	p := start(t, 0, renewing())
	ctx := t.Context()
	for _, id := range []string{"cam-known", "cam-ended", "cam-revoked", "cam-old"} {
		if _, err := p.Fleetctl(ctx, "device", "create", id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Fleetctl(ctx, "device", "set", "cam-ended", "--label", "decommissioned=yes"); err != nil {
		t.Fatal(err)
	}
	ca, err := p.CA()
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := ca.IssueDevice("cam-known", model, "rev-a", 1000*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	soon := p.expiredAt
	for _, c := range []struct {
		name   string
		holder certs.Credential
		status int
		says   string
	}{
		{"known", soon("cam-known", time.Minute, 30*time.Minute), 200, "BEGIN CERTIFICATE"},
		{"not due", fresh, 409, "half of the certificate's life is not over"},
		{"unknown", soon("cam-stranger", time.Minute, 30*time.Minute), 403, "not found"},
		{"decommissioned", soon("cam-ended", time.Minute, 30*time.Minute), 403, "decommissioned"},
	} {
		status, body, err := p.renew(c.holder)
		if err != nil || status != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d %q, %v", c.name, status, body, err)
		}
	}
	// These do not get past the handshake.
	if _, body, err := p.renew(soon("cam-old", 25*time.Minute, 30*time.Minute)); err == nil {
		t.Errorf("expired too long ago: %q", body)
	}
	service, err := certs.LoadCredential(filepath.Join(p.Keys, "services", "broker.crt"), filepath.Join(p.Keys, "services", "broker.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, body, err := p.renew(service); err == nil {
		t.Errorf("a service: %q", body)
	}
	revoked := soon("cam-revoked", time.Minute, 30*time.Minute)
	if status, body, err := p.renew(revoked); err != nil || status != 200 {
		t.Fatalf("before it was revoked: %d %q, %v", status, body, err)
	}
	if err := p.revoke(revoked.Certificate); err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, time.Minute, "the revocation", func() error {
		if status, _, err := p.renew(revoked); err == nil {
			return fmt.Errorf("answered %d", status)
		}
		return nil
	})
}

// revoke puts a certificate on the fleet's list, as an operator does.
func (p *platform) revoke(cert *x509.Certificate) error {
	file := filepath.Join(p.Dir, "revoked.crt")
	if err := certs.WritePublicFile(file, certs.EncodeCertificate(cert)); err != nil {
		return err
	}
	out, err := p.Fleetctl(p.t.Context(), "keys", "revoke", "--dir", p.Keys, file)
	if err == nil && !strings.Contains(out, "names 1 certificates") {
		err = errors.New(out)
	}
	return err
}
