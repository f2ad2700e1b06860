package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"groundswell/topics"
)

// Service names that clients expect of a server.
const (
	ServiceBroker = "broker"
	ServiceFleetd = topics.ServiceFleetd
)

// Revocations answers whether a certificate was revoked: nil, or ErrRevoked.
// CRL and CRLFile implement it.
type Revocations interface {
	Check(cert *x509.Certificate) error
}

// TLSOptions is what the builders of tls.Config need.
type TLSOptions struct {
	// Credential is the own certificate and key.
	Credential Credential
	// Authority is whom to believe about the peer.
	Authority *Authority
	// Revocations is asked at every handshake, resumed or not. Nil means that
	// nothing is ever revoked.
	Revocations Revocations
	// Now is the clock; nil means time.Now. Agents pass their floor clock.
	Now func() time.Time
	// Behind says that the clock may be behind, as that of a device may that was
	// off for years: a certificate of the peer that is not valid yet is not
	// refused for that. Whoever waited for the right time first would never be
	// able to ask for it, and it keeps nobody out: a thief's certificate is not
	// made in the future.
	Behind bool
	// Public, where given, are other authorities, by which ClientTLS takes a server that
	// is not of the fleet for the host name that was asked for. It is for what need not
	// be trusted, as artifacts, which are verified themselves.
	Public *x509.CertPool
}

func (o TLSOptions) now() time.Time {
	if o.Now != nil {
		return o.Now()
	}
	return time.Now()
}

// ServerTLS is for listeners that devices and services connect to: TLS 1.3,
// and a client certificate with an identity of the server's own trust domain,
// not revoked.
func ServerTLS(o TLSOptions) (*tls.Config, error) {
	own, err := o.check()
	if err != nil {
		return nil, err
	}
	config := o.base()
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.ClientCAs = o.Authority.pool
	config.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := o.verify(state, own.TrustDomain, x509.ExtKeyUsageClientAuth)
		return err
	}
	return config, nil
}

// PublicServerTLS is for listeners that browsers and curl reach: TLS 1.3, a
// client certificate is not asked for, callers authenticate otherwise.
func PublicServerTLS(o TLSOptions) (*tls.Config, error) {
	if _, err := o.check(); err != nil {
		return nil, err
	}
	config := o.base()
	config.ClientAuth = tls.NoClientCert
	return config, nil
}

// ClientTLS is for connecting to one of the named services (ServiceBroker,
// ServiceFleetd) of the own trust domain. The server is accepted for its
// chain and its SPIFFE id; its host name does not matter.
func ClientTLS(o TLSOptions, services ...string) (*tls.Config, error) {
	own, err := o.check()
	if err != nil {
		return nil, err
	}
	return o.client(own.TrustDomain, services)
}

// AnonymousClientTLS is ClientTLS for a party that has no certificate of its
// own (fleetctl with a token). Credential is not used.
func AnonymousClientTLS(o TLSOptions, trustDomain string, services ...string) (*tls.Config, error) {
	if o.Authority == nil {
		return nil, fmt.Errorf("%w: no authority", ErrChain)
	}
	if err := CheckTrustDomain(trustDomain); err != nil {
		return nil, err
	}
	o.Credential = Credential{}
	return o.client(trustDomain, services)
}

func (o TLSOptions) client(trustDomain string, services []string) (*tls.Config, error) {
	if len(services) == 0 {
		return nil, fmt.Errorf("%w: no service named", ErrPeer)
	}
	services = slices.Clone(services)
	config := o.base()
	// The library can only verify by host name. VerifyConnection below does
	// the whole of the verification instead, also for resumed sessions.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		id, err := o.verify(state, trustDomain, x509.ExtKeyUsageServerAuth)
		if err != nil && o.Public != nil {
			if errPublic := o.verifyPublic(state); errPublic != nil {
				return errors.Join(err, errPublic)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if id.Kind != topics.PrincipalService || !slices.Contains(services, id.Name) {
			return fmt.Errorf("%w: %s, wanted service %q", ErrPeer, id, services)
		}
		return nil
	}
	return config, nil
}

func (o TLSOptions) check() (Identity, error) {
	if o.Credential.Certificate == nil {
		return Identity{}, fmt.Errorf("%w: no credential", ErrIdentity)
	}
	if o.Authority == nil {
		return Identity{}, fmt.Errorf("%w: no authority", ErrChain)
	}
	return o.Credential.Identity()
}

func (o TLSOptions) base() *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS13, Time: o.Now}
	if o.Credential.Certificate != nil {
		config.Certificates = []tls.Certificate{o.Credential.TLS()}
	}
	return config
}

// verify is the whole check of a peer. It repeats what the handshake may have
// done, because a resumed session skips the library's checks and the world may
// have changed since the first one.
func (o TLSOptions) verify(state tls.ConnectionState, trustDomain string, use x509.ExtKeyUsage) (Identity, error) {
	if len(state.PeerCertificates) == 0 {
		return Identity{}, fmt.Errorf("%w: no certificate", ErrIdentity)
	}
	cert := state.PeerCertificates[0]
	now := o.now()
	if o.Behind && now.Before(cert.NotBefore) {
		now = cert.NotBefore
	}
	if err := o.Authority.Verify(cert, use, now); err != nil {
		return Identity{}, err
	}
	id, err := ParseIdentity(cert)
	if err != nil {
		return Identity{}, err
	}
	if id.TrustDomain != trustDomain {
		return Identity{}, fmt.Errorf("%w: %s", ErrTrustDomain, id)
	}
	if o.Revocations != nil {
		if err := o.Revocations.Check(cert); err != nil {
			return Identity{}, err
		}
	}
	return id, nil
}

// verifyPublic is the check of a server by its host name.
func (o TLSOptions) verifyPublic(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 || state.ServerName == "" {
		return fmt.Errorf("%w: no certificate for a host name", ErrIdentity)
	}
	cert := state.PeerCertificates[0]
	now := o.now()
	if o.Behind && now.Before(cert.NotBefore) {
		now = cert.NotBefore
	}
	between := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := cert.Verify(x509.VerifyOptions{DNSName: state.ServerName, Roots: o.Public, Intermediates: between, CurrentTime: now})
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrChain, state.ServerName, err)
	}
	return nil
}

// PeerIdentity is the identity of the other side of a finished handshake.
func PeerIdentity(state tls.ConnectionState) (Identity, error) {
	if len(state.PeerCertificates) == 0 {
		return Identity{}, fmt.Errorf("%w: no certificate", ErrIdentity)
	}
	return ParseIdentity(state.PeerCertificates[0])
}
