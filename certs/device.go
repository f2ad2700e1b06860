package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"groundswell/topics"
)

// DeviceTLS is for connections between devices, in both directions: TLS 1.3, and of
// either side a device's certificate of the own trust domain, not revoked. Services and
// operators are refused (ErrPeer), and so is an own certificate that is not a device's.
// Addresses do not matter. A device's certificate is made for clients only; here it
// serves as well, which opens nothing: nobody but a device accepts it as a server's.
func DeviceTLS(o TLSOptions) (*tls.Config, error) {
	own, err := o.check()
	if err != nil {
		return nil, err
	}
	if own.Kind != topics.PrincipalDevice {
		return nil, fmt.Errorf("%w: own certificate is of %s, wanted a device", ErrPeer, own)
	}
	config := o.base()
	// VerifyConnection is the whole check on both sides, also of resumed sessions: the
	// library would look for a host name, and for a server's use.
	config.InsecureSkipVerify = true
	config.ClientAuth = tls.RequireAnyClientCert
	config.VerifyConnection = func(state tls.ConnectionState) error {
		id, err := o.verify(state, own.TrustDomain, x509.ExtKeyUsageClientAuth)
		if err != nil {
			return err
		}
		if id.Kind != topics.PrincipalDevice {
			return fmt.Errorf("%w: %s, wanted a device", ErrPeer, id)
		}
		return nil
	}
	return config, nil
}
