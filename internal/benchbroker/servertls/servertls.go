// Package servertls is the TLS of the servers that our broker is compared with:
// they ask of clients what it asks.
package servertls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
)

// Config is TLS 1.3 and a certificate of the authority. The names are PEM files.
func Config(cert, key, ca string) (*tls.Config, error) {
	own, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, errors.New("no certificate in " + ca)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}, nil
}
