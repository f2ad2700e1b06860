package certs

import (
	"crypto/tls"
	"fmt"

	"groundswell/topics"
)

// PeerTLS is for connections between instances of one service, in both
// directions: TLS 1.3, and of either side a certificate of that service of the
// own trust domain, not revoked. Host names do not matter. The own certificate
// must be of the service, too (ErrPeer).
func PeerTLS(o TLSOptions, service string) (*tls.Config, error) {
	own, err := o.check()
	if err != nil {
		return nil, err
	}
	if own.Kind != topics.PrincipalService || own.Name != service {
		return nil, fmt.Errorf("%w: own certificate is of %s, wanted service %q", ErrPeer, own, service)
	}
	config, err := o.client(own.TrustDomain, []string{service})
	if err != nil {
		return nil, err
	}
	// The library only asks for a certificate; VerifyConnection, which client has
	// set, is the whole check on this side as well. A device's certificate lacks
	// the use (server) that it wants to see.
	config.ClientAuth = tls.RequireAnyClientCert
	return config, nil
}
