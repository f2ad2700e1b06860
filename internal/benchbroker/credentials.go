package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"groundswell/certs"
	"groundswell/topics"
)

const domain = "bench.test"

// client is who connects: an id and the certificate that goes with it.
type client struct {
	id  string
	tls *tls.Config
}

// credentials are one authority, the certificate that all servers share, and a
// certificate of its own for each device.
type credentials struct {
	dir     string
	ca      *certs.CA
	devices []client
	service certs.Credential // of fleetd
}

func deviceID(i int) string { return fmt.Sprintf("bench-%06d", i) }

func issue(dir string, devices int) (*credentials, error) {
	ca, err := certs.NewCA(domain, time.Now(), 24*time.Hour)
	if err != nil {
		return nil, err
	}
	c := &credentials{dir: dir, ca: ca, devices: make([]client, devices)}
	server, err := ca.IssueService(certs.ServiceBroker, []string{"127.0.0.1", "localhost"}, 24*time.Hour)
	if err != nil {
		return nil, err
	}
	if c.service, err = ca.IssueService(certs.ServiceFleetd, nil, 24*time.Hour); err != nil {
		return nil, err
	}
	if err := server.Save(c.path("tls.crt"), c.path("tls.key")); err != nil {
		return nil, err
	}
	if err := os.WriteFile(c.path("ca.crt"), ca.PEM(), 0o644); err != nil {
		return nil, err
	}
	list, err := ca.SignCRL(1, nil, time.Now(), time.Now().Add(24*time.Hour))
	if err != nil {
		return nil, err
	}
	if err := certs.WritePublicFile(c.path("crl.pem"), list); err != nil {
		return nil, err
	}
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for i := range c.devices {
		g.Go(func() error {
			credential, err := ca.IssueDevice(deviceID(i), "cam-a", "r1", 24*time.Hour)
			if err != nil {
				return err
			}
			c.devices[i], err = c.client(credential, deviceID(i))
			return err
		})
	}
	return c, g.Wait()
}

func (c *credentials) path(name string) string { return filepath.Join(c.dir, name) }

// client is a party of that credential. All servers agree on the key exchange
// that all of them know; resumption is not offered.
func (c *credentials) client(credential certs.Credential, id string) (client, error) {
	config, err := certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: c.ca.Authority()}, certs.ServiceBroker)
	if err != nil {
		return client{}, err
	}
	config.CurvePreferences = []tls.CurveID{tls.X25519}
	return client{id: id, tls: config}, nil
}

// fleetd is one of fleetd's clients; name tells them apart.
func (c *credentials) fleetd(name string) (client, error) {
	return c.client(c.service, topics.ServiceFleetd+"-"+name)
}
