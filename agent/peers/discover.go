package peers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"groundswell/agent/peers/mdns"

	"golang.org/x/sync/errgroup"
)

// What is announced as TXT (RFC 6763, 6):
//
//	v=1                     the version of what is described here
//	d={8 digits}            which trust domain
//	a={16 digits},...       artifacts of which there is something, at most maxAnnounced
const (
	keyVersion, keyDomain, keyArtifacts = "v=", "d=", "a="

	version      = "1"
	maxAnnounced = 14 // a string has at most 255 bytes
)

var shortPattern = regexp.MustCompile(`^[0-9a-f]{16}$`)

// discover looks for peers, until ctx ends.
func (s *Site) discover(ctx context.Context) error {
	if len(s.opt.Interfaces) == 0 {
		return nil
	}
	node := mdns.New(mdns.Config{
		Interfaces: s.opt.Interfaces, Service: s.service, Found: s.met, Known: s.known, Log: s.opt.Log,
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return node.Run(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-s.changed:
				node.Changed()
			}
		}
	})
	return g.Wait()
}

// service is what is announced of this device; not ok: it takes no part.
func (s *Site) service() (mdns.Service, bool) {
	addr, err := netip.ParseAddrPort(s.Addr())
	if err != nil || s.Out() != "" {
		return mdns.Service{Name: s.name}, false
	}
	var held []string
	if s.opt.Holds != nil {
		held = s.opt.Holds()
	}
	s.mu.Lock()
	for _, o := range slices.Backward(s.offers) {
		held = append(held, o.artifact)
	}
	s.mu.Unlock()
	return mdns.Service{Name: s.name, Port: addr.Port(), Text: Text(s.opt.TrustDomain, held)}, true
}

// Text is what a device of a trust domain announces that has something of artifacts.
func Text(trustDomain string, artifacts []string) []string {
	var short []string
	for _, a := range artifacts {
		if a = a[:min(len(a), shortDigest)]; !slices.Contains(short, a) && len(short) < maxAnnounced {
			short = append(short, a)
		}
	}
	return []string{keyVersion + version, keyDomain + domain(trustDomain), keyArtifacts + strings.Join(short, ",")}
}

// domain is short for a trust domain.
func domain(trustDomain string) string {
	sum := sha256.Sum256([]byte("groundswell/domain/" + trustDomain))
	return hex.EncodeToString(sum[:4])
}

// artifactsOf is what an announcement says that there is; not ok: it is of another fleet,
// or of another version, or nothing that a device of this one would say.
func artifactsOf(text []string, trustDomain string) (artifacts []string, ok bool) {
	value := func(key string) string {
		for _, t := range text {
			if v, ok := strings.CutPrefix(t, key); ok {
				return v // the first counts (RFC 6763, 6.4)
			}
		}
		return ""
	}
	if value(keyVersion) != version || value(keyDomain) != domain(trustDomain) {
		return nil, false
	}
	if value(keyArtifacts) == "" {
		return nil, true
	}
	for short := range strings.SplitSeq(value(keyArtifacts), ",") {
		if !shortPattern.MatchString(short) || len(artifacts) == maxAnnounced {
			return nil, false
		}
		artifacts = append(artifacts, short)
	}
	return artifacts, true
}

// maxAddrs is how many addresses of a neighbour are known.
const maxAddrs = 4

// met notes what was announced. Anybody may have announced it: it counts for nothing
// before the device has proved who it is.
func (s *Site) met(f mdns.Found) {
	artifacts, ok := artifactsOf(f.Text, s.opt.TrustDomain)
	if !ok {
		return
	}
	addr := f.Addr.String()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.near[f.Name]
	switch {
	case f.Gone:
		if n != nil {
			delete(s.near, f.Name)
		}
		return
	case n == nil:
		if len(s.near) >= maxNear && !s.makeRoom() {
			return
		}
		n = &neighbour{name: f.Name, addr: addr}
		s.near[f.Name] = n
	}
	n.artifacts = artifacts
	if !slices.Contains(n.addrs, addr) {
		n.addrs = append([]string{addr}, n.addrs...)
		n.addrs = n.addrs[:min(len(n.addrs), maxAddrs)]
	}
	if n.device == "" || n.strikes > 0 {
		n.addr = addr // the other one may be old
	}
}

// makeRoom forgets a neighbour that has not proved who it is; false: all have. The caller
// holds mu.
func (s *Site) makeRoom() bool {
	for name, n := range s.near {
		if n.device == "" && !n.static {
			delete(s.near, name)
			return true
		}
	}
	return false
}

// known are the names of the neighbours.
func (s *Site) known() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, n := range s.near {
		if !n.static {
			names = append(names, name)
		}
	}
	return names
}
