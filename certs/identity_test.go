package certs_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/topics"
)

func TestIdentityOfWhatTheCAIssues(t *testing.T) {
	ca := newCA(t, domain)
	operator := must[certs.Credential](t)(ca.IssueOperator("alice", time.Hour))
	for _, test := range []struct {
		credential certs.Credential
		want       certs.Identity
		uri        string
	}{
		{device(t, ca, "cam-1"), certs.Identity{TrustDomain: domain, Kind: topics.PrincipalDevice, Name: "cam-1", Model: "cam-x", Hardware: "rev-b"}, "spiffe://fleet.example.org/device/cam-1"},
		{service(t, ca, "broker"), certs.Identity{TrustDomain: domain, Kind: topics.PrincipalService, Name: "broker"}, "spiffe://fleet.example.org/service/broker"},
		{operator, certs.Identity{TrustDomain: domain, Kind: topics.PrincipalOperator, Name: "alice"}, "spiffe://fleet.example.org/operator/alice"},
	} {
		got := must[certs.Identity](t)(test.credential.Identity())
		if got != test.want {
			t.Errorf("got %+v, want %+v", got, test.want)
		}
		if got.URI() != test.uri {
			t.Errorf("got %s, want %s", got.URI(), test.uri)
		}
		if p := got.Principal(); p.Kind != got.Kind || p.Name != got.Name {
			t.Errorf("got principal %+v", p)
		}
	}
}

// certificate is a well-formed device's; a test spoils one thing.
func certificate(uri string) *x509.Certificate {
	cert := &x509.Certificate{Subject: pkix.Name{OrganizationalUnit: []string{"cam-x"}, SerialNumber: "rev-b"}}
	if u, err := url.Parse(uri); err == nil {
		cert.URIs = []*url.URL{u}
	}
	return cert
}

func TestIdentityRefusals(t *testing.T) {
	good := "spiffe://fleet.example.org/device/cam-1"
	if _, err := certs.ParseIdentity(certificate(good)); err != nil {
		t.Fatal(err)
	}
	for _, uri := range []string{
		"", "spiffe://", "spiffe://fleet.example.org", "spiffe://fleet.example.org/", "spiffe://fleet.example.org/device",
		"spiffe://fleet.example.org/device/", "spiffe://fleet.example.org//cam-1", "spiffe://fleet.example.org/device/cam-1/",
		"spiffe://fleet.example.org/device/cam-1/x", "spiffe://fleet.example.org/devices/cam-1", "spiffe://fleet.example.org/Device/cam-1",
		"spiffe://fleet.example.org/device/cam%2D1", "spiffe://fleet.example.org/device/%63am-1", "spiffe://fleet.example.org/device/cam 1",
		"spiffe://fleet.example.org/device/-cam", "spiffe://fleet.example.org/device/" + strings.Repeat("a", 64),
		"spiffe://fleet.example.org/device/../service/fleetd", "spiffe://fleet.example.org/device/cam-1?x=1", "spiffe://fleet.example.org/device/cam-1?",
		"spiffe://fleet.example.org/device/cam-1#x", "spiffe://user@fleet.example.org/device/cam-1", "spiffe://fleet.example.org:443/device/cam-1",
		"spiffe://Fleet.Example.Org/device/cam-1", "spiffe://[::1]/device/cam-1", "spiffe:fleet.example.org/device/cam-1",
		"https://fleet.example.org/device/cam-1", "//fleet.example.org/device/cam-1", "/device/cam-1", "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
	} {
		if id, err := certs.ParseIdentity(certificate(uri)); !errors.Is(err, certs.ErrIdentity) {
			t.Errorf("%s: got %+v, %v", uri, id, err)
		}
	}
	other, _ := url.Parse("spiffe://fleet.example.org/device/cam-2")
	for name, spoil := range map[string]func(*x509.Certificate){
		"two identities":             func(c *x509.Certificate) { c.URIs = append(c.URIs, other) },
		"the same one twice":         func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) },
		"an authority's":             func(c *x509.Certificate) { c.IsCA = true },
		"a host name":                func(c *x509.Certificate) { c.DNSNames = []string{"broker.example.org"} },
		"an address":                 func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} },
		"an e-mail address":          func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.org"} },
		"no model":                   func(c *x509.Certificate) { c.Subject.OrganizationalUnit = nil },
		"two models":                 func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{"cam-x", "cam-y"} },
		"a model that is no slug":    func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{"cam x"} },
		"no hardware revision":       func(c *x509.Certificate) { c.Subject.SerialNumber = "" },
		"a revision with a wildcard": func(c *x509.Certificate) { c.Subject.SerialNumber = "+" },
	} {
		cert := certificate(good)
		spoil(cert)
		if id, err := certs.ParseIdentity(cert); !errors.Is(err, certs.ErrIdentity) {
			t.Errorf("%s: got %+v, %v", name, id, err)
		}
	}
	if _, err := certs.ParseIdentity(nil); !errors.Is(err, certs.ErrIdentity) {
		t.Errorf("no certificate: got %v", err)
	}
}

func TestCARefusesToIssue(t *testing.T) {
	ca := newCA(t, domain)
	key := must[interface{ Public() any }](t)(publicKey())
	id := certs.Identity{TrustDomain: domain, Kind: topics.PrincipalDevice, Name: "cam-1", Model: "cam-x", Hardware: "rev-b"}
	request := func(f func(*certs.Request)) certs.Request {
		r := certs.Request{Identity: id, PublicKey: key.Public(), Lifetime: time.Hour}
		f(&r)
		return r
	}
	for _, test := range []struct {
		name string
		req  certs.Request
		want error
	}{
		{"another trust domain", request(func(r *certs.Request) { r.Identity.TrustDomain = "other.example.org" }), certs.ErrTrustDomain},
		{"no trust domain", request(func(r *certs.Request) { r.Identity.TrustDomain = "" }), certs.ErrTrustDomain},
		{"an id with a slash", request(func(r *certs.Request) { r.Identity.Name = "a/b" }), certs.ErrIdentity},
		{"an unknown kind", request(func(r *certs.Request) { r.Identity.Kind = "robot" }), certs.ErrIdentity},
		{"no model", request(func(r *certs.Request) { r.Identity.Model = "" }), certs.ErrIdentity},
		{"a service with a model", request(func(r *certs.Request) { r.Identity.Kind = topics.PrincipalService }), certs.ErrIdentity},
		{"a device with a host name", request(func(r *certs.Request) { r.Hosts = []string{"localhost"} }), certs.ErrRequest},
		{"no key", request(func(r *certs.Request) { r.PublicKey = nil }), certs.ErrRequest},
		{"no lifetime", request(func(r *certs.Request) { r.Lifetime = 0 }), certs.ErrRequest},
		{"after the CA's end", request(func(r *certs.Request) { r.Now = time.Now().Add(25 * time.Hour) }), certs.ErrChain},
	} {
		if cert, err := ca.Issue(test.req); !errors.Is(err, test.want) || cert != nil {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
	long := must[*x509.Certificate](t)(ca.Issue(request(func(r *certs.Request) { r.Lifetime = 999 * time.Hour })))
	if limit := time.Now().Add(24 * time.Hour); long.NotAfter.After(limit) {
		t.Errorf("got a certificate until %s, longer than its CA", long.NotAfter)
	}
}

func FuzzParseIdentity(f *testing.F) {
	ca := newCA(f, domain)
	for _, c := range []certs.Credential{device(f, ca, "cam-1"), service(f, ca, "broker")} {
		f.Add(c.Certificate.Raw)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if id, err := certs.ParseIdentity(cert); err == nil && id.Check() != nil {
			t.Errorf("accepted %+v", id)
		}
	})
}

func FuzzIdentityURI(f *testing.F) {
	f.Add("spiffe://fleet.example.org/device/cam-1", "cam-x", "rev-b")
	f.Add("spiffe://fleet.example.org/service/broker", "", "")
	f.Add("SPIFFE://fleet.example.org/device/%63", "cam-x", "")
	f.Fuzz(func(t *testing.T, uri, model, hardware string) {
		cert := certificate(uri)
		cert.Subject = pkix.Name{OrganizationalUnit: []string{model}, SerialNumber: hardware}
		id, err := certs.ParseIdentity(cert)
		if err != nil {
			return
		}
		// What is accepted is what we would have written, but for the letter
		// case of the scheme and an empty fragment, which name nobody else.
		if got := strings.TrimSuffix(strings.Replace(uri, uri[:6], strings.ToLower(uri[:6]), 1), "#"); got != id.URI() {
			t.Errorf("%q became %q", uri, id.URI())
		}
	})
}
