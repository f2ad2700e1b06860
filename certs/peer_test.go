package certs_test

import (
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"groundswell/certs"
)

func TestOnlyInstancesOfTheServicePeer(t *testing.T) {
	ca, stranger := newCA(t, domain), newCA(t, domain)
	options := func(c certs.Credential) certs.TLSOptions {
		return certs.TLSOptions{Credential: c, Authority: ca.Authority()}
	}
	peer := must[*tls.Config](t)(certs.PeerTLS(options(service(t, ca, "broker")), certs.ServiceBroker))
	if _, serverErr, clientErr := handshake(t, peer, must[*tls.Config](t)(certs.PeerTLS(options(service(t, ca, "broker")), certs.ServiceBroker))); serverErr != nil || clientErr != nil {
		t.Fatalf("server: %v, client: %v", serverErr, clientErr)
	}
	for name, credential := range map[string]certs.Credential{
		"another service": service(t, ca, "fleetd"), "a device": device(t, ca, "cam-1"), "another authority": service(t, stranger, "broker"),
	} {
		if _, serverErr, _ := handshake(t, peer, clientConfig(t, options(credential))); serverErr == nil {
			t.Errorf("%s may dial a peer", name)
		}
	}
	for name, credential := range map[string]certs.Credential{"another service": service(t, ca, "fleetd"), "another authority": service(t, stranger, "broker")} {
		server := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{credential.TLS()}}
		if _, _, clientErr := handshake(t, server, peer); clientErr == nil {
			t.Errorf("%s is dialled as a peer", name)
		}
	}
	if _, serverErr, _ := handshake(t, peer, &tls.Config{InsecureSkipVerify: true}); serverErr == nil {
		t.Error("nobody may dial a peer")
	}
	broken := must[*tls.Config](t)(certs.PeerTLS(certs.TLSOptions{
		Credential: service(t, ca, "broker"), Authority: ca.Authority(), Now: func() time.Time { return time.Now().AddDate(50, 0, 0) },
	}, certs.ServiceBroker))
	if _, serverErr, _ := handshake(t, broken, peer); serverErr == nil {
		t.Error("an expired certificate is a peer's")
	}
	if _, err := certs.PeerTLS(options(service(t, ca, "fleetd")), certs.ServiceBroker); !errors.Is(err, certs.ErrPeer) {
		t.Errorf("got %v", err)
	}
}
