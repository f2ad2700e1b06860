package main

import (
	"strings"
	"testing"
	"time"
)

// Renewal is off, or has all that it takes to refuse those who are revoked.
func TestRenewalIsRefusedByField(t *testing.T) {
	whole := func(change func(*Config)) error {
		c := DefaultConfig()
		c.Downloads.TLS = TLS{CA: "ca.crt", CRL: "crl.pem"}
		c.Renewal.Listen, c.Renewal.Cert, c.Renewal.Key = ":8445", "ca.crt", "ca.key"
		change(&c)
		return c.validateRenewal()
	}
	if err := whole(func(*Config) {}); err != nil {
		t.Error(err)
	}
	if err := whole(func(c *Config) { c.Renewal = Renewal{} }); err != nil {
		t.Errorf("off: %v", err)
	}
	for field, change := range map[string]func(*Config){
		"renewal.listen":    func(c *Config) { c.Renewal.Listen = "" },
		"renewal.key":       func(c *Config) { c.Renewal.Key = "" },
		"downloads.tls.crl": func(c *Config) { c.Downloads.TLS.CRL = "" },
		"renewal.grace":     func(c *Config) { c.Renewal.Grace = -time.Second },
		"renewal.lifetime":  func(c *Config) { c.Renewal.Lifetime = time.Minute },
	} {
		if err := whole(change); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
