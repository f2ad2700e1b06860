package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"groundswell/fleetd/artifact"
	"groundswell/internal/config"
	"groundswell/topics"
)

// Artifacts is where the bytes of releases lie; replicas share it. Exactly one of Dir
// and URL stands.
type Artifacts struct {
	Dir string `yaml:"dir"`
	// URL is a bucket of an S3-compatible store: s3://bucket?region=name, and where
	// needed endpoint=https://host:port, use_path_style=true, prefix=a/folder/ and what
	// else docs/artifacts-delivery.md names. Credentials are looked for where AWS's
	// tools do (AWS_SHARED_CREDENTIALS_FILE, the instance's role), never here.
	URL      string `yaml:"url"`
	MaxBytes int64  `yaml:"max_bytes"` // of one artifact
}

// SignedURLs has artifacts given out only for a URL with a signature that has not
// expired; others are answered 403. With redirect_to the listener for devices signs
// the URLs, and origin asks for them. Image metadata needs none.
type SignedURLs struct {
	// KeyFiles hold secrets of at least 32 bytes, the same for all replicas and for a
	// CDN that checks by itself. The first signs, each is believed. Empty: no
	// signatures.
	KeyFiles []config.SecretFile `yaml:"key_files"`
	// Lifetime is how long a URL is valid at most; at least half of it. Default 1 h. It
	// counts at the beginning of a download only.
	Lifetime time.Duration `yaml:"lifetime"`
}

// Origin is a further listener for downloads, for caches and CDNs: it asks for no
// certificate and never redirects. Its own certificate is that of downloads.tls.
type Origin struct {
	Listen string `yaml:"listen"` // empty: none
}

// Limits are for this process, all its listeners for downloads together. A fleetd
// serves one region: what a region may take is this, times its replicas.
type Limits struct {
	// Concurrent is how many downloads of artifacts run at once (as many of each other
	// kind besides, such as image metadata); others are answered 503. Default 1000.
	Concurrent int `yaml:"concurrent"`
	// PerDevice is how many of them one device may have. Default 8.
	PerDevice int `yaml:"per_device"`
	// RetryAfterMin and RetryAfterMax are between which a 503 says at random when to
	// ask again, in whole seconds. Default 5s and 1m.
	RetryAfterMin time.Duration `yaml:"retry_after_min"`
	RetryAfterMax time.Duration `yaml:"retry_after_max"`
	// BytesPerSecond bounds all of them together; at least 4096 for each of
	// concurrent. Default 0: no bound.
	BytesPerSecond int64 `yaml:"bytes_per_second"`
}

func (l Limits) config() artifact.LimitsConfig {
	return artifact.LimitsConfig{
		Concurrent: l.Concurrent, PerDevice: l.PerDevice, RetryAfterMin: l.RetryAfterMin, RetryAfterMax: l.RetryAfterMax, BytesPerSecond: l.BytesPerSecond,
	}
}

func defaultLimits() Limits {
	d := artifact.DefaultLimits()
	return Limits{Concurrent: d.Concurrent, PerDevice: d.PerDevice, RetryAfterMin: d.RetryAfterMin, RetryAfterMax: d.RetryAfterMax, BytesPerSecond: d.BytesPerSecond}
}

func (c *Config) validateDelivery() error {
	d := c.Downloads
	switch {
	case d.RedirectTo != "" && !baseURL(d.RedirectTo):
		return fmt.Errorf("downloads.redirect_to: %q is not of the form https://host", d.RedirectTo)
	case d.RedirectTo != "" && strings.HasPrefix(d.RedirectTo, "http:"):
		return errors.New("downloads.redirect_to: must be https: agents do not follow from https to http")
	case len(d.SignedURLs.KeyFiles) > 0 && d.RedirectTo != "" && !d.RequireDeviceCertificate:
		return errors.New("downloads.signed_urls: with redirect_to they need require_device_certificate, or anybody is sent a signed URL")
	case d.SignedURLs.Lifetime < time.Minute || d.SignedURLs.Lifetime > 7*24*time.Hour:
		return errors.New("downloads.signed_urls.lifetime: must be from 1m to 168h")
	}
	for i, file := range d.SignedURLs.KeyFiles {
		if file == "" {
			return fmt.Errorf("downloads.signed_urls.key_files[%d]: is empty", i)
		}
	}
	if d.Origin.Listen != "" {
		if err := checkListen("downloads.origin.listen", d.Origin.Listen); err != nil {
			return err
		}
	}
	if err := d.Limits.config().Check(); err != nil {
		return fmt.Errorf("downloads.limits.%w", err)
	}
	return nil
}

func (c *Config) validateArtifacts() error {
	a := c.Artifacts
	switch {
	case a.Dir == "" && a.URL == "":
		return errors.New("artifacts.dir: is not set, nor is artifacts.url")
	case a.Dir != "" && a.URL != "":
		return errors.New("artifacts: only one of dir and url can be set")
	case a.MaxBytes < 1 || a.MaxBytes > topics.MaxArtifact:
		return fmt.Errorf("artifacts.max_bytes: must be from 1 to %d", int64(topics.MaxArtifact))
	}
	if a.URL != "" {
		if err := artifact.CheckBlobsURL(a.URL); err != nil {
			return fmt.Errorf("artifacts.url: %w", err)
		}
	}
	return nil
}
