package certs_test

import (
	"crypto/tls"
	"errors"
	"slices"
	"testing"
	"time"

	"groundswell/certs"
)

func TestOnlyDevicesOfTheFleetTalkAsDevices(t *testing.T) {
	ca, stranger, other := newCA(t, domain), newCA(t, domain), newCA(t, "other.example.org")
	of := func(c certs.Credential, authority *certs.Authority) *tls.Config {
		return must[*tls.Config](t)(certs.DeviceTLS(certs.TLSOptions{Credential: c, Authority: authority}))
	}
	own := of(device(t, ca, "cam-1"), ca.Authority())
	seen, serverErr, clientErr := handshake(t, own, of(device(t, ca, "cam-2"), ca.Authority()))
	if serverErr != nil || clientErr != nil {
		t.Fatalf("server: %v, client: %v", serverErr, clientErr)
	}
	if id, err := certs.PeerIdentity(seen); err != nil || id.Name != "cam-2" {
		t.Errorf("%v, %v", id, err)
	}
	// Of two authorities that are both believed, as while one is replaced, only those of
	// the own trust domain count.
	both := must[*certs.Authority](t)(certs.ParseAuthority(slices.Concat(ca.PEM(), other.PEM())))
	trusting := of(device(t, ca, "cam-1"), both)
	for name, credential := range map[string]certs.Credential{
		"fleetd": service(t, ca, certs.ServiceFleetd), "the broker": service(t, ca, certs.ServiceBroker),
		"an operator":       must[certs.Credential](t)(ca.IssueOperator("jo", time.Hour)),
		"another authority": device(t, stranger, "cam-2"), "another trust domain": device(t, other, "cam-2"),
		"who has expired": must[certs.Credential](t)(ca.IssueDevice("cam-2", "cam-x", "rev-b", time.Nanosecond)),
	} {
		open := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{credential.TLS()}, InsecureSkipVerify: true, ClientAuth: tls.RequestClientCert}
		if _, serverErr, _ := handshake(t, trusting, open); serverErr == nil {
			t.Errorf("%s is served as a device", name)
		}
		if _, _, clientErr := handshake(t, open, trusting); clientErr == nil {
			t.Errorf("%s serves as a device", name)
		}
	}
	if _, serverErr, _ := handshake(t, own, &tls.Config{InsecureSkipVerify: true}); serverErr == nil {
		t.Error("nobody is served as a device")
	}
	old := &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{device(t, ca, "cam-2").TLS()}, InsecureSkipVerify: true}
	if _, serverErr, _ := handshake(t, own, old); serverErr == nil {
		t.Error("TLS 1.2 is served")
	}
	if _, err := certs.DeviceTLS(certs.TLSOptions{Credential: service(t, ca, "fleetd"), Authority: ca.Authority()}); !errors.Is(err, certs.ErrPeer) {
		t.Errorf("fleetd as a device: %v", err)
	}
}
