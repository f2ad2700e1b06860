package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/topics"
)

// issued makes a device's credential that was valid from a time for so long.
func issued(t *testing.T, ca *certs.CA, id string, from time.Time, lifetime time.Duration) certs.Credential {
	t.Helper()
	key := must2(certs.GenerateKey())(t)
	cert := must[*x509.Certificate](t)(ca.Issue(certs.Request{
		Identity:  certs.Identity{TrustDomain: domain, Kind: topics.PrincipalDevice, Name: id, Model: "cam-x", Hardware: "rev-b"},
		PublicKey: key.Public(), Now: from, Lifetime: lifetime,
	}))
	return must[certs.Credential](t)(certs.NewCredential(cert, key))
}

func must2[V any](v V, err error) func(*testing.T) V {
	return func(t *testing.T) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestExpiredCertificateIsLetInOnlyToBeRenewedAndOnlyForSoLong(t *testing.T) {
	now := time.Now()
	ca := must[*certs.CA](t)(certs.NewCA(domain, now.AddDate(-5, 0, 0), 20*365*24*time.Hour))
	stranger := must[*certs.CA](t)(certs.NewCA(domain, now.AddDate(-5, 0, 0), 20*365*24*time.Hour))
	day := 24 * time.Hour
	old := issued(t, ca, "cam-1", now.Add(-400*day), 365*day)
	revoked := issued(t, ca, "cam-2", now.Add(-400*day), 365*day)
	list := must[*certs.CRL](t)(certs.ParseCRL(crl(t, ca, 1, revoked.Certificate), ca.Authority()))
	o := certs.TLSOptions{Credential: service(t, ca, certs.ServiceFleetd), Authority: ca.Authority(), Revocations: list}
	server := must[*tls.Config](t)(certs.RenewalTLS(o, 60*day))
	for _, c := range []struct {
		name   string
		client certs.Credential
		server *tls.Config
		want   error
	}{
		{"expired a month ago", old, server, nil},
		{"valid", issued(t, ca, "cam-1", now, day), server, nil},
		{"expired too long ago", issued(t, ca, "cam-1", now.Add(-500*day), 365*day), server, certs.ErrChain},
		{"revoked", revoked, server, certs.ErrRevoked},
		{"by another authority", issued(t, stranger, "cam-1", now.Add(-400*day), 365*day), server, certs.ErrChain},
		{"of a service", service(t, ca, "broker"), server, certs.ErrPeer},
		{"expired, elsewhere", old, serverConfig(t, o), certs.ErrChain},
	} {
		client := must[*tls.Config](t)(certs.ClientTLS(certs.TLSOptions{Credential: c.client, Authority: ca.Authority()}, certs.ServiceFleetd))
		_, serverErr, clientErr := handshake(t, c.server, client)
		if c.want == nil {
			if serverErr != nil || clientErr != nil {
				t.Errorf("%s: %v, %v", c.name, serverErr, clientErr)
			}
			continue
		}
		expired := x509.CertificateInvalidError{}
		if !errors.Is(serverErr, c.want) && !(c.want == certs.ErrChain && errors.As(serverErr, &expired)) || clientErr == nil {
			t.Errorf("%s: got %v, want %v; client %v", c.name, serverErr, c.want, clientErr)
		}
	}
}

func TestRenewedCertificateIsForTheSameHolderAndKeyAndLater(t *testing.T) {
	now := time.Now()
	ca := must[*certs.CA](t)(certs.NewCA(domain, now.AddDate(-5, 0, 0), 20*365*24*time.Hour))
	stranger := must[*certs.CA](t)(certs.NewCA(domain, now.AddDate(-5, 0, 0), 20*365*24*time.Hour))
	old := issued(t, ca, "cam-1", now.AddDate(-2, 0, 0), 365*24*time.Hour)
	renew := func(by *certs.CA, c certs.Credential, at time.Time, lifetime time.Duration) []byte {
		return certs.EncodeCertificate(must[*x509.Certificate](t)(by.Renew(c.Certificate, at, lifetime)))
	}
	next, err := old.Renewed(renew(ca, old, now, 100*time.Hour), ca.Authority())
	if err != nil {
		t.Fatal(err)
	}
	before, after := must2(old.Identity())(t), must2(next.Identity())(t)
	if before != after || !next.Certificate.NotAfter.After(now) {
		t.Errorf("%s became %s, until %s", before, after, next.Certificate.NotAfter)
	}
	other := issued(t, ca, "cam-2", now.AddDate(-2, 0, 0), 365*24*time.Hour)
	renamed := must[*x509.Certificate](t)(ca.Issue(certs.Request{
		Identity:  certs.Identity{TrustDomain: domain, Kind: topics.PrincipalDevice, Name: "cam-3", Model: "cam-x", Hardware: "rev-b"},
		PublicKey: old.Certificate.PublicKey, Lifetime: time.Hour,
	}))
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"of another key", renew(ca, other, now, time.Hour), certs.ErrFile},
		{"of another name", certs.EncodeCertificate(renamed), certs.ErrIdentity},
		{"by another authority", renew(stranger, old, now, time.Hour), certs.ErrChain},
		{"that ends no later", certs.EncodeCertificate(old.Certificate), certs.ErrChain},
		{"two", append(renew(ca, old, now, time.Hour), renew(ca, old, now, time.Hour)...), certs.ErrFile},
		{"rubbish", []byte("rubbish"), certs.ErrFile},
	} {
		if _, err := old.Renewed(c.data, ca.Authority()); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if certs.Due(next.Certificate, now) || !certs.Due(next.Certificate, now.Add(60*time.Hour)) || !certs.Due(old.Certificate, now) {
		t.Error("due at the wrong time")
	}
}

// A device that was off for years has a clock that is behind every certificate.
func TestClockThatIsBehindKeepsNobodyFromConnecting(t *testing.T) {
	ca := newCA(t, domain)
	server := serverConfig(t, certs.TLSOptions{Credential: service(t, ca, "broker"), Authority: ca.Authority()})
	past := func() time.Time { return time.Now().AddDate(-2, 0, 0) }
	o := certs.TLSOptions{Credential: device(t, ca, "cam-1"), Authority: ca.Authority(), Now: past}
	if _, _, err := handshake(t, server, clientConfig(t, o)); !errors.Is(err, certs.ErrChain) {
		t.Errorf("without saying that it may be behind: %v", err)
	}
	o.Behind = true
	if _, _, err := handshake(t, server, clientConfig(t, o)); err != nil {
		t.Errorf("behind: %v", err)
	}
	o.Now = func() time.Time { return time.Now().AddDate(5, 0, 0) }
	if _, _, err := handshake(t, server, clientConfig(t, o)); !errors.Is(err, certs.ErrChain) {
		t.Errorf("of what has expired: %v", err)
	}
}
