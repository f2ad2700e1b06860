package certs

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"groundswell/topics"
)

// Identity is who a certificate speaks for.
type Identity struct {
	TrustDomain string
	Kind        topics.PrincipalKind // device, service or operator
	Name        string               // device id, service name, operator name
	// Model and Hardware (hardware revision) are slugs. Devices have both,
	// services and operators neither.
	Model    string
	Hardware string
}

// trustDomainRegexp is the SPIFFE grammar of a trust domain, lower case only.
var trustDomainRegexp = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?$`)

// CheckTrustDomain returns ErrTrustDomain unless s is a legal trust domain,
// such as "fleet.example.org".
func CheckTrustDomain(s string) error {
	if !trustDomainRegexp.MatchString(s) {
		return fmt.Errorf("%w: %.80q is not a trust domain", ErrTrustDomain, s)
	}
	return nil
}

// URI is the SPIFFE id, for example spiffe://fleet.example.org/device/cam-1.
func (id Identity) URI() string {
	return "spiffe://" + id.TrustDomain + "/" + string(id.Kind) + "/" + id.Name
}

// String is the SPIFFE id.
func (id Identity) String() string { return id.URI() }

// Principal is the identity as the access rules see it.
func (id Identity) Principal() topics.Principal {
	return topics.Principal{Kind: id.Kind, Name: id.Name}
}

// Check returns nil when the identity may stand in a certificate, else an
// error that is ErrTrustDomain or ErrIdentity.
func (id Identity) Check() error {
	if err := CheckTrustDomain(id.TrustDomain); err != nil {
		return err
	}
	if !topics.ValidID(id.Name) {
		return fmt.Errorf("%w: %.80q is not a legal name", ErrIdentity, id.Name)
	}
	switch id.Kind {
	case topics.PrincipalDevice:
		if !topics.ValidID(id.Model) {
			return fmt.Errorf("%w: %.80q is not a legal model", ErrIdentity, id.Model)
		}
		if !topics.ValidID(id.Hardware) {
			return fmt.Errorf("%w: %.80q is not a legal hardware revision", ErrIdentity, id.Hardware)
		}
	case topics.PrincipalService, topics.PrincipalOperator:
		if id.Model != "" || id.Hardware != "" {
			return fmt.Errorf("%w: only devices have a model and a hardware revision", ErrIdentity)
		}
	default:
		return fmt.Errorf("%w: unknown kind %.80q", ErrIdentity, id.Kind)
	}
	return nil
}

// ParseIdentity reads the identity of a leaf certificate. It does not verify
// the certificate. Anything that CA.Issue would not have written is
// ErrIdentity.
func ParseIdentity(cert *x509.Certificate) (Identity, error) {
	if cert == nil {
		return Identity{}, fmt.Errorf("%w: no certificate", ErrIdentity)
	}
	if cert.IsCA {
		return Identity{}, fmt.Errorf("%w: it is an authority's", ErrIdentity)
	}
	if len(cert.URIs) != 1 {
		return Identity{}, fmt.Errorf("%w: %d URI SANs instead of one", ErrIdentity, len(cert.URIs))
	}
	id, err := parseURI(cert.URIs[0])
	if err != nil {
		return Identity{}, err
	}
	if len(cert.EmailAddresses) > 0 {
		return Identity{}, fmt.Errorf("%w: e-mail address in a certificate", ErrIdentity)
	}
	if id.Kind != topics.PrincipalService && len(cert.DNSNames)+len(cert.IPAddresses) > 0 {
		return Identity{}, fmt.Errorf("%w: only services have host names", ErrIdentity)
	}
	if id.Kind == topics.PrincipalDevice {
		if len(cert.Subject.OrganizationalUnit) != 1 {
			return Identity{}, fmt.Errorf("%w: %d models instead of one", ErrIdentity, len(cert.Subject.OrganizationalUnit))
		}
		id.Model = cert.Subject.OrganizationalUnit[0]
		id.Hardware = cert.Subject.SerialNumber
		if n := count(cert.Subject.Names, oidSerialNumber); n > 1 {
			return Identity{}, fmt.Errorf("%w: %d hardware revisions instead of one", ErrIdentity, n)
		}
	}
	if err := id.Check(); err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	return id, nil
}

// parseURI accepts exactly what Identity.URI writes: a lower-case trust
// domain, two path segments, nothing escaped and nothing else.
func parseURI(u *url.URL) (Identity, error) {
	refuse := func(why string) (Identity, error) {
		return Identity{}, fmt.Errorf("%w: URI SAN %.120q: %s", ErrIdentity, u.String(), why)
	}
	switch {
	case u.Scheme != "spiffe":
		return refuse("not a SPIFFE id")
	case u.User != nil || u.Opaque != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.RawPath != "":
		return refuse("more than a trust domain and a path")
	}
	kind, name, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if !ok || !strings.HasPrefix(u.Path, "/") {
		return refuse("the path is not /kind/name")
	}
	id := Identity{TrustDomain: u.Host, Kind: topics.PrincipalKind(kind), Name: name}
	if err := CheckTrustDomain(id.TrustDomain); err != nil {
		return refuse("illegal trust domain")
	}
	switch id.Kind {
	case topics.PrincipalDevice, topics.PrincipalService, topics.PrincipalOperator:
	default:
		return refuse("unknown kind")
	}
	if !topics.ValidID(id.Name) {
		return refuse("illegal name")
	}
	return id, nil
}

var oidSerialNumber = []int{2, 5, 4, 5}

func count(names []pkix.AttributeTypeAndValue, oid []int) int {
	n := 0
	for _, name := range names {
		if name.Type.Equal(oid) {
			n++
		}
	}
	return n
}
