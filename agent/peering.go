package main

import (
	"context"
	"fmt"
	"log/slog"

	"groundswell/agent/clock"
	"groundswell/agent/peers"
	"groundswell/agent/slot"
	"groundswell/agent/verify"
	"groundswell/agent/wake"
	"groundswell/certs"
	"groundswell/internal/ops"
)

// newSite makes the device one of those of its site; nil where the configuration does not
// say so.
func newSite(cfg Config, id certs.Identity, current *renewed, authority *certs.Authority, clk *clock.Clock, parts []part, verifier *verify.Verifier, awake *wake.Wake, registry *ops.Registry, log *slog.Logger) (*peers.Site, error) {
	if cfg.Peers.Listen == "" {
		return nil, nil
	}
	config, err := current.peer(authority, clk.Now)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	site := peers.New(peers.Options{
		Config: cfg.Peers, Device: id.Name, TrustDomain: id.TrustDomain, TLS: config, Log: log,
		Mains:    func() bool { return !usesBattery(awake) },
		Document: verifier.Document,
		Contents: func(artifact string) (peers.Contents, bool) {
			for _, c := range contents(parts) {
				if c.Image.SHA256 == artifact {
					return peers.Contents{Length: c.Image.Length, Open: func() (peers.ReadAtCloser, error) { return c.Open() }}, true
				}
			}
			return peers.Contents{}, false
		},
		Holds: func() (artifacts []string) {
			for _, c := range contents(parts) {
				artifacts = append(artifacts, c.Image.SHA256)
			}
			return artifacts
		},
	})
	registry.NewCounterFunc("agent_peer_given_bytes_total", "Bytes of blocks and documents that were given to other devices of the site.", func() float64 { return float64(site.Given()) })
	return site, nil
}

// contents is what the components run and have staged, where that can be read.
func contents(parts []part) (list []slot.Contents) {
	for _, p := range parts {
		if slots, ok := p.slots.(interface{ Contents() (slot.Contents, bool) }); ok {
			if c, ok := slots.Contents(); ok {
				list = append(list, c)
			}
		}
		if slots, ok := p.slots.(interface{ Idle() (slot.Contents, bool) }); ok {
			if c, ok := slots.Idle(); ok {
				list = append(list, c)
			}
		}
	}
	return list
}

// runSite has the others served. That it cannot be done is no reason not to manage the
// device.
func runSite(ctx context.Context, site *peers.Site, log *slog.Logger) {
	if site == nil {
		return
	}
	if err := site.Run(ctx); err != nil {
		log.Error("no part is taken any more among the site's devices", "err", err)
	}
}
