package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"groundswell/certs"
	"groundswell/topics"
)

// errIdentity: the certificate is not that of this device.
var errIdentity = errors.New("wrong certificate")

// identity is who the device is, by its certificate.
func identity(cfg Config) (certs.Credential, certs.Identity, *certs.Authority, error) {
	fail := func(err error) (certs.Credential, certs.Identity, *certs.Authority, error) {
		return certs.Credential{}, certs.Identity{}, nil, fmt.Errorf("tls: %w", err)
	}
	credential, err := certs.LoadCredential(cfg.TLS.Cert, cfg.TLS.Key)
	if err != nil {
		return fail(err)
	}
	id, err := credential.Identity()
	if err != nil {
		return fail(err)
	}
	authority, err := certs.LoadAuthority(cfg.TLS.CA)
	if err != nil {
		return fail(err)
	}
	switch {
	case id.Kind != topics.PrincipalDevice:
		return fail(fmt.Errorf("%w: it is for a %s, not a device", errIdentity, id.Kind))
	case cfg.Device != "" && cfg.Device != id.Name:
		return fail(fmt.Errorf("%w: it is for device %q, the configuration for %q", errIdentity, id.Name, cfg.Device))
	case cfg.TrustDomain != "" && cfg.TrustDomain != id.TrustDomain:
		return fail(fmt.Errorf("%w: it is of trust domain %q, the configuration of %q", errIdentity, id.TrustDomain, cfg.TrustDomain))
	}
	return credential, id, authority, nil
}

// renewed is the device's certificate as it is on disk now: whoever renews it
// need not restart the agent, and with it the component. It is read again for
// each handshake. What cannot be used (damaged, between the two files of a
// renewal, of somebody else) is logged, and the one before it stays in use.
type renewed struct {
	cfg Config
	id  certs.Identity
	log *slog.Logger

	mu   sync.Mutex // guards what follows
	last certs.Credential
	told string // the last complaint
}

func newRenewed(cfg Config, id certs.Identity, c certs.Credential, log *slog.Logger) *renewed {
	return &renewed{cfg: cfg, id: id, last: c, log: log}
}

// client is the configuration for connections to a service.
func (r *renewed) client(authority *certs.Authority, now func() time.Time, service string) (*tls.Config, error) {
	return r.connects(certs.TLSOptions{Authority: authority, Now: now}, service)
}

// source is the configuration for connections to sources of artifacts.
func (r *renewed) source(authority *certs.Authority, public *x509.CertPool, now func() time.Time) (*tls.Config, error) {
	return r.connects(certs.TLSOptions{Authority: authority, Public: public, Now: now}, certs.ServiceFleetd)
}

func (r *renewed) connects(o certs.TLSOptions, service string) (*tls.Config, error) {
	o.Credential, o.Behind = r.last, true
	config, err := certs.ClientTLS(o, service)
	if err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c := r.credential().TLS()
		return &c, nil
	}
	if r.cfg.TLS.Resume {
		config.ClientSessionCache = newTickets(func() string { return string(r.credential().Certificate.Raw) })
	}
	return config, nil
}

// peer is the configuration for connections with other devices, in both directions.
func (r *renewed) peer(authority *certs.Authority, now func() time.Time) (*tls.Config, error) {
	config, err := certs.DeviceTLS(certs.TLSOptions{Credential: r.last, Authority: authority, Now: now, Behind: true})
	if err != nil {
		return nil, err
	}
	config.Certificates = nil
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c := r.credential().TLS()
		return &c, nil
	}
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c := r.credential().TLS()
		return &c, nil
	}
	return config, nil
}

// credential is the newest that can be used.
func (r *renewed) credential() certs.Credential {
	r.mu.Lock()
	defer r.mu.Unlock()
	next, err := certs.LoadCredential(r.cfg.TLS.Cert, r.cfg.TLS.Key)
	if err == nil {
		var id certs.Identity
		if id, err = next.Identity(); err == nil && id != r.id {
			err = fmt.Errorf("%w: it is for %s, this is %s", errIdentity, id, r.id)
		}
	}
	if err != nil {
		if text := err.Error(); text != r.told {
			r.told = text
			r.log.Error("certificate on disk cannot be used, the one before it is", "err", err)
		}
		return r.last
	}
	if !next.Certificate.Equal(r.last.Certificate) {
		r.log.Info("certificate renewed", "until", next.Certificate.NotAfter)
	}
	r.last, r.told = next, ""
	return next
}
