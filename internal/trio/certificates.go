package main

import (
	"os"
	"path/filepath"
	"time"

	"groundswell/certs"
)

const (
	domain = "local.test"
	device = "cam-1"
	// valid is how long the certificates are; those that end within a day are made
	// anew.
	valid = 30 * 24 * time.Hour
)

// certificates makes sure that the directory holds an authority and certificates
// of the broker, of a device and of fleetd.
func certificates(dir string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	if last, err := certs.LoadCredential(at("fleetd.crt"), at("fleetd.key")); err == nil && time.Until(last.Certificate.NotAfter) > 24*time.Hour {
		return nil // it was made last, so the others are there
	}
	now := time.Now()
	ca, err := certs.NewCA(domain, now.Add(-time.Hour), valid+24*time.Hour)
	if err != nil {
		return err
	}
	broker, err := ca.IssueService(certs.ServiceBroker, []string{"localhost"}, valid)
	if err != nil {
		return err
	}
	cam, err := ca.IssueDevice(device, "cam-a", "rev-a", valid)
	if err != nil {
		return err
	}
	fleetd, err := ca.IssueService("fleetd", nil, valid)
	if err != nil {
		return err
	}
	list, err := ca.SignCRL(1, nil, now, now.Add(valid))
	if err != nil {
		return err
	}
	if err := os.Remove(at("fleetd.crt")); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := certs.WritePublicFile(at("crl.pem"), list); err != nil {
		return err
	}
	if err := ca.Save(at("ca.crt"), at("ca.key")); err != nil {
		return err
	}
	if err := broker.Save(at("broker.crt"), at("broker.key")); err != nil {
		return err
	}
	if err := cam.Save(at(device+".crt"), at(device+".key")); err != nil {
		return err
	}
	return fleetd.Save(at("fleetd.crt"), at("fleetd.key"))
}
