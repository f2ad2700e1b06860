package certs

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/url"
	"time"

	"groundswell/topics"
)

// Request says which certificate to issue.
type Request struct {
	Identity Identity
	// PublicKey is the holder's: ECDSA P-256 or P-384, or Ed25519.
	PublicKey crypto.PublicKey
	// Now is when the certificate is made; zero means the present.
	Now time.Time
	// Lifetime counts from Now and ends no later than the CA's own.
	Lifetime time.Duration
	// Hosts are DNS names and IP addresses by which browsers and curl reach a
	// service; the platform's own parties do not look at them. Only for
	// services.
	Hosts []string
}

// Issue makes a certificate. It refuses (ErrIdentity, ErrTrustDomain,
// ErrRequest) what ParseIdentity would refuse later.
func (ca *CA) Issue(req Request) (*x509.Certificate, error) {
	if err := req.Identity.Check(); err != nil {
		return nil, err
	}
	if req.Identity.TrustDomain != ca.trustDomain {
		return nil, fmt.Errorf("%w: %s, this is the %s", ErrTrustDomain, req.Identity.TrustDomain, ca)
	}
	if err := checkPublicKey(req.PublicKey); err != nil {
		return nil, err
	}
	if req.Lifetime <= 0 {
		return nil, fmt.Errorf("%w: a lifetime of %s", ErrRequest, req.Lifetime)
	}
	now := req.Now
	if now.IsZero() {
		now = time.Now()
	}
	if !now.Before(ca.cert.NotAfter) {
		return nil, fmt.Errorf("%w: the %s expired at %s", ErrChain, ca, ca.cert.NotAfter.Format(time.RFC3339))
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: req.Identity.Name},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: ca.trustDomain, Path: "/" + string(req.Identity.Kind) + "/" + req.Identity.Name}},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(req.Lifetime),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	switch req.Identity.Kind {
	case topics.PrincipalDevice:
		template.Subject.OrganizationalUnit = []string{req.Identity.Model}
		template.Subject.SerialNumber = req.Identity.Hardware
	case topics.PrincipalService:
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, host := range req.Hosts {
		if req.Identity.Kind != topics.PrincipalService {
			return nil, fmt.Errorf("%w: only services have host names", ErrRequest)
		}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, req.PublicKey, ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", req.Identity, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", req.Identity, err)
	}
	return cert, nil
}

// IssueDevice makes a key and a certificate for a device.
func (ca *CA) IssueDevice(device, model, hardware string, lifetime time.Duration) (Credential, error) {
	return ca.issueCredential(Request{
		Identity: Identity{TrustDomain: ca.trustDomain, Kind: topics.PrincipalDevice, Name: device, Model: model, Hardware: hardware},
		Lifetime: lifetime,
	})
}

// IssueService makes a key and a certificate for a service, such as "broker"
// or "fleetd", reachable under hosts (DNS names and IP addresses).
func (ca *CA) IssueService(name string, hosts []string, lifetime time.Duration) (Credential, error) {
	return ca.issueCredential(Request{
		Identity: Identity{TrustDomain: ca.trustDomain, Kind: topics.PrincipalService, Name: name},
		Hosts:    hosts,
		Lifetime: lifetime,
	})
}

// IssueOperator makes a key and a certificate for an operator.
func (ca *CA) IssueOperator(name string, lifetime time.Duration) (Credential, error) {
	return ca.issueCredential(Request{
		Identity: Identity{TrustDomain: ca.trustDomain, Kind: topics.PrincipalOperator, Name: name},
		Lifetime: lifetime,
	})
}

func (ca *CA) issueCredential(req Request) (Credential, error) {
	key, err := GenerateKey()
	if err != nil {
		return Credential{}, err
	}
	req.PublicKey = key.Public()
	cert, err := ca.Issue(req)
	if err != nil {
		return Credential{}, err
	}
	return NewCredential(cert, key)
}
