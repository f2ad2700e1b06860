package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"groundswell/internal/config"
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

// How artifacts are stored and given out is refused by field.
func TestDeliveryIsRefusedByField(t *testing.T) {
	check := func(change func(*Config)) error {
		c := DefaultConfig()
		c.Artifacts.Dir = "artifacts"
		change(&c)
		return errors.Join(c.validateDelivery(), c.validateArtifacts())
	}
	store := func(url string) func(*Config) {
		return func(c *Config) { c.Artifacts.Dir, c.Artifacts.URL = "", url }
	}
	signed := func(c *Config) {
		c.Downloads.RedirectTo, c.Downloads.SignedURLs.KeyFiles = "https://cdn.example.com/fleet", []config.SecretFile{"a.key"}
	}
	for name, change := range map[string]func(*Config){
		"defaults": func(*Config) {}, "signed": signed, "a store": store("s3://bucket?region=eu-1&endpoint=https://s3.example.com&use_path_style=true&prefix=a/"),
	} {
		if err := check(change); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range []struct {
		field  string
		change func(*Config)
	}{
		{"artifacts.dir: ", func(c *Config) { c.Artifacts.Dir = "" }},
		{"artifacts: ", func(c *Config) { c.Artifacts.URL = "s3://bucket" }},
		{"artifacts.max_bytes: ", func(c *Config) { c.Artifacts.MaxBytes = 0 }},
		{"artifacts.url: ", store("https://bucket.example.com")},
		{"artifacts.url: ", store("s3://user:secret@bucket")},
		{"artifacts.url: the path", store("s3://bucket/folder")},
		{"artifacts.url: prefix: ", store("s3://bucket?prefix=folder")},
		{"artifacts.url: endpoint: ", store("s3://bucket?endpoint=s3.example.com")},
		{"downloads.redirect_to: ", func(c *Config) { c.Downloads.RedirectTo = "cdn.example.com" }},
		{"downloads.redirect_to: must be https", func(c *Config) { c.Downloads.RedirectTo = "http://cdn.example.com" }},
		{"downloads.redirect_to: ", func(c *Config) { c.Downloads.RedirectTo = "https://cdn.example.com/?a=b" }},
		{"downloads.signed_urls: ", func(c *Config) { signed(c); c.Downloads.RequireDeviceCertificate = false }},
		{"downloads.signed_urls.lifetime: ", func(c *Config) { c.Downloads.SignedURLs.Lifetime = time.Second }},
		{"downloads.signed_urls.key_files[1]: ", func(c *Config) { c.Downloads.SignedURLs.KeyFiles = []config.SecretFile{"a.key", ""} }},
		{"downloads.origin.listen: ", func(c *Config) { c.Downloads.Origin.Listen = "8446" }},
		{"downloads.limits.concurrent: ", func(c *Config) { c.Downloads.Limits.Concurrent = 0 }},
		{"downloads.limits.bytes_per_second: ", func(c *Config) { c.Downloads.Limits.BytesPerSecond = 1000 }},
	} {
		if err := check(c.change); err == nil || !strings.HasPrefix(err.Error(), c.field) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", c.field, err)
		}
	}
}
