package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"groundswell/certs"
	"groundswell/certs/token"
	"groundswell/internal/cli"
)

// makeTokenKey makes the key that signs bearer tokens.
func makeTokenKey(privateFile, publicFile string) error {
	key, err := token.GenerateKey()
	if err != nil {
		return err
	}
	return key.Save(privateFile, publicFile)
}

type keysToken struct {
	Dir      string        `required:"" help:"Key directory made by keys init." placeholder:"DIR"`
	Name     string        `arg:"" help:"Who the token is for; it stands in the audit."`
	Role     string        `required:"" help:"viewer, operator or admin." enum:"viewer,operator,admin"`
	Out      string        `required:"" help:"File for the token; it is a secret." placeholder:"FILE"`
	Lifetime time.Duration `help:"How long it is valid." default:"24h"`
	Issuer   string        `help:"Issuer as fleetd expects it." default:"groundswell"`
	Audience string        `help:"Audience as fleetd expects it." default:"fleetd"`
}

func (k *keysToken) Run(io cli.Streams) error {
	role, err := token.ParseRole(k.Role)
	if err != nil {
		return err
	}
	key, err := token.LoadKey(filepath.Join(k.Dir, offlineDir, "token.key"))
	if err != nil {
		return err
	}
	if _, err := lifetimeEnd(time.Now(), k.Lifetime); err != nil {
		return err
	}
	text, err := token.NewIssuer(key, k.Issuer, k.Audience).Sign(k.Name, role, time.Now(), k.Lifetime)
	if err != nil {
		return err
	}
	if err := certs.WritePrivateFile(k.Out, []byte(text+"\n")); err != nil {
		return err
	}
	_, err = fmt.Fprintf(io.Out, "%s: token of %s %s for %v\n", k.Out, role, k.Name, k.Lifetime)
	return err
}

// readCertificate reads the first certificate of a PEM file.
func readCertificate(file string) (*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return cert, nil
}
