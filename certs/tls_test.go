package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/topics"
)

// handshake connects a client to a server, passes one byte each way and
// returns what each side says about it.
func handshake(t *testing.T, server, client *tls.Config) (seen tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer listener.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		c := tls.Server(conn, server)
		if err := c.Handshake(); err != nil {
			done <- err
			return
		}
		seen = c.ConnectionState()
		_, err = c.Write([]byte{1})
		_, _ = c.Read(make([]byte, 1)) // until the client closes
		done <- err
	}()
	conn := must[net.Conn](t)(net.Dial("tcp", listener.Addr().String()))
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	c := tls.Client(conn, client)
	clientErr = c.Handshake()
	if clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1)) // a server's refusal arrives here
	}
	c.Close()
	serverErr = <-done // seen is set before
	return seen, serverErr, clientErr
}

func serverConfig(t *testing.T, o certs.TLSOptions) *tls.Config {
	t.Helper()
	return must[*tls.Config](t)(certs.ServerTLS(o))
}

func clientConfig(t *testing.T, o certs.TLSOptions) *tls.Config {
	t.Helper()
	return must[*tls.Config](t)(certs.ClientTLS(o, certs.ServiceBroker))
}

func TestDeviceAndBrokerAuthenticateEachOther(t *testing.T) {
	ca := newCA(t, domain)
	server := serverConfig(t, certs.TLSOptions{Credential: service(t, ca, "broker"), Authority: ca.Authority()})
	client := clientConfig(t, certs.TLSOptions{Credential: device(t, ca, "cam-1"), Authority: ca.Authority()})
	state, serverErr, clientErr := handshake(t, server, client)
	if serverErr != nil || clientErr != nil {
		t.Fatalf("server: %v, client: %v", serverErr, clientErr)
	}
	got := must[certs.Identity](t)(certs.PeerIdentity(state))
	want := certs.Identity{TrustDomain: domain, Kind: topics.PrincipalDevice, Name: "cam-1", Model: "cam-x", Hardware: "rev-b"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if state.Version != tls.VersionTLS13 {
		t.Errorf("got TLS version %x, want 1.3", state.Version)
	}
}

func TestServerRefusesClients(t *testing.T) {
	ca, stranger, elsewhere := newCA(t, domain), newCA(t, domain), newCA(t, "other.example.org")
	both := must[*certs.Authority](t)(certs.ParseAuthority(append(ca.PEM(), elsewhere.PEM()...)))
	revoked := device(t, ca, "cam-2")
	list := must[*certs.CRL](t)(certs.ParseCRL(crl(t, ca, 1, revoked.Certificate), ca.Authority()))
	o := certs.TLSOptions{Credential: service(t, ca, "broker"), Authority: both, Revocations: list}

	for _, test := range []struct {
		name   string
		client certs.Credential
		now    time.Time
		want   error
	}{
		{"of another trust domain", device(t, elsewhere, "cam-1"), time.Time{}, certs.ErrTrustDomain},
		{"revoked", revoked, time.Time{}, certs.ErrRevoked},
		{"of an authority of the same name", device(t, stranger, "cam-1"), time.Time{}, nil},
		{"expired", device(t, ca, "cam-1"), time.Now().Add(2 * time.Hour), nil},
		{"without certificate", certs.Credential{}, time.Time{}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := o
			if !test.now.IsZero() {
				server.Now = func() time.Time { return test.now }
			}
			client := &tls.Config{InsecureSkipVerify: true}
			if test.client.Certificate != nil {
				client.Certificates = []tls.Certificate{test.client.TLS()}
			}
			_, serverErr, clientErr := handshake(t, serverConfig(t, server), client)
			if serverErr == nil || clientErr == nil {
				t.Fatalf("accepted: server %v, client %v", serverErr, clientErr)
			}
			if test.want != nil && !errors.Is(serverErr, test.want) {
				t.Errorf("got %v, want %v", serverErr, test.want)
			}
		})
	}
}

func TestClientRefusesServers(t *testing.T) {
	ca, stranger, elsewhere := newCA(t, domain), newCA(t, domain), newCA(t, "other.example.org")
	both := must[*certs.Authority](t)(certs.ParseAuthority(append(ca.PEM(), elsewhere.PEM()...)))
	revoked := service(t, ca, "broker")
	list := must[*certs.CRL](t)(certs.ParseCRL(crl(t, ca, 1, revoked.Certificate), ca.Authority()))
	o := certs.TLSOptions{Credential: device(t, ca, "cam-1"), Authority: both, Revocations: list}

	for _, test := range []struct {
		name   string
		server certs.Credential
		now    time.Time
		want   error
	}{
		{"another service", service(t, ca, "fleetd"), time.Time{}, certs.ErrPeer},
		{"another trust domain", service(t, elsewhere, "broker"), time.Time{}, certs.ErrTrustDomain},
		{"another authority", service(t, stranger, "broker"), time.Time{}, certs.ErrChain},
		{"a device that plays broker", device(t, ca, "broker"), time.Time{}, certs.ErrChain},
		{"revoked", revoked, time.Time{}, certs.ErrRevoked},
		{"expired", service(t, ca, "broker"), time.Now().Add(2 * time.Hour), certs.ErrChain},
		{"not yet valid", service(t, ca, "broker"), time.Now().Add(-2 * time.Hour), certs.ErrChain},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := o
			if !test.now.IsZero() {
				client.Now = func() time.Time { return test.now }
			}
			server := &tls.Config{Certificates: []tls.Certificate{test.server.TLS()}}
			_, _, clientErr := handshake(t, server, clientConfig(t, client))
			if !errors.Is(clientErr, test.want) {
				t.Errorf("got %v, want %v", clientErr, test.want)
			}
		})
	}
}

// switchable revokes a certificate at the flip of a switch.
type switchable struct{ on atomic.Bool }

func (s *switchable) Check(*x509.Certificate) error {
	if s.on.Load() {
		return certs.ErrRevoked
	}
	return nil
}

func TestResumedSessionIsCheckedAgain(t *testing.T) {
	ca := newCA(t, domain)
	revocations := &switchable{}
	server := serverConfig(t, certs.TLSOptions{Credential: service(t, ca, "broker"), Authority: ca.Authority(), Revocations: revocations})
	client := clientConfig(t, certs.TLSOptions{Credential: device(t, ca, "cam-1"), Authority: ca.Authority()})
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	client.ServerName = "broker"

	for i, resumed := range []bool{false, true} {
		state, serverErr, clientErr := handshake(t, server, client)
		if serverErr != nil || clientErr != nil {
			t.Fatalf("server: %v, client: %v", serverErr, clientErr)
		}
		if state.DidResume != resumed {
			t.Fatalf("connection %d: resumed %v, want %v", i, state.DidResume, resumed)
		}
	}
	revocations.on.Store(true)
	if _, serverErr, _ := handshake(t, server, client); !errors.Is(serverErr, certs.ErrRevoked) {
		t.Errorf("got %v, want %v", serverErr, certs.ErrRevoked)
	}
}

func TestServerRefusesTLS12(t *testing.T) {
	ca := newCA(t, domain)
	server := serverConfig(t, certs.TLSOptions{Credential: service(t, ca, "broker"), Authority: ca.Authority()})
	client := clientConfig(t, certs.TLSOptions{Credential: device(t, ca, "cam-1"), Authority: ca.Authority()})
	client.MinVersion, client.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, serverErr, clientErr := handshake(t, server, client); serverErr == nil || clientErr == nil {
		t.Errorf("accepted: server %v, client %v", serverErr, clientErr)
	}
}
