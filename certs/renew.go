package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"groundswell/topics"
)

// RenewalTLS is for the one listener where devices get a new certificate for the
// one that they have, also when that has expired: not longer than grace ago. What
// else ServerTLS asks for holds here as well, and only devices are let in. No
// session is ever resumed, so each connection proves anew that the device holds
// the key.
func RenewalTLS(o TLSOptions, grace time.Duration) (*tls.Config, error) {
	own, err := o.check()
	if err != nil {
		return nil, err
	}
	config := o.base()
	// The library would refuse what has expired; VerifyConnection is the whole
	// check. That the peer holds the key, the handshake itself has shown.
	config.ClientAuth = tls.RequireAnyClientCert
	config.SessionTicketsDisabled = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return fmt.Errorf("%w: no certificate", ErrIdentity)
		}
		cert := state.PeerCertificates[0]
		at := o
		at.Now = func() time.Time { return within(o.now(), cert, grace) }
		id, err := at.verify(state, own.TrustDomain, x509.ExtKeyUsageClientAuth)
		if err != nil {
			return err
		}
		if id.Kind != topics.PrincipalDevice {
			return fmt.Errorf("%w: %s is no device", ErrPeer, id)
		}
		return nil
	}
	return config, nil
}

// within is the time by which to judge a certificate that may be renewed: the last
// moment of its life when that is not longer than grace ago.
func within(now time.Time, cert *x509.Certificate, grace time.Duration) time.Time {
	if now.After(cert.NotAfter) && now.Sub(cert.NotAfter) <= grace {
		return cert.NotAfter
	}
	return now
}

// Due reports whether a certificate may be renewed at now: half of its life is over.
func Due(cert *x509.Certificate, now time.Time) bool {
	return !now.Before(cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 2))
}

// Renew makes a certificate for the same holder, of the same key, that is valid
// from now for lifetime. The caller has verified the old one and that its sender
// holds the key.
func (ca *CA) Renew(old *x509.Certificate, now time.Time, lifetime time.Duration) (*x509.Certificate, error) {
	id, err := ParseIdentity(old)
	if err != nil {
		return nil, err
	}
	return ca.Issue(Request{Identity: id, PublicKey: old.PublicKey, Now: now, Lifetime: lifetime})
}

// EncodeCertificate writes a certificate as LoadCredential reads it (PEM).
func EncodeCertificate(cert *x509.Certificate) []byte { return encodeCertificate(cert) }

// Renewed is the credential with a new certificate (PEM) for its key. It refuses
// (ErrFile, ErrIdentity, ErrChain) one that is not for the same holder and key, does
// not chain to the authority, or ends no later than the one that there is.
func (c Credential) Renewed(data []byte, authority *Authority) (Credential, error) {
	certs, err := decodeCertificates(data)
	if err != nil {
		return Credential{}, err
	}
	if len(certs) != 1 {
		return Credential{}, fmt.Errorf("%w: %d certificates instead of one", ErrFile, len(certs))
	}
	next, err := NewCredential(certs[0], c.key)
	if err != nil {
		return Credential{}, err
	}
	before, err := c.Identity()
	if err != nil {
		return Credential{}, err
	}
	after, err := next.Identity()
	if err != nil {
		return Credential{}, err
	}
	if after != before {
		return Credential{}, fmt.Errorf("%w: it is for %s, this is %s", ErrIdentity, after, before)
	}
	if !certs[0].NotAfter.After(c.Certificate.NotAfter) {
		return Credential{}, fmt.Errorf("%w: it ends at %s, no later than the one before", ErrChain, certs[0].NotAfter.Format(time.RFC3339))
	}
	// By its own time: the device's clock may be anything.
	if err := authority.Verify(certs[0], x509.ExtKeyUsageClientAuth, certs[0].NotBefore); err != nil {
		return Credential{}, err
	}
	return next, nil
}

// SaveCertificate writes the certificate alone: the key stays what it was.
func (c Credential) SaveCertificate(certFile string) error {
	if err := WritePublicFile(certFile, encodeCertificate(c.Certificate)); err != nil {
		return fmt.Errorf("save certificate: %w", err)
	}
	return nil
}
