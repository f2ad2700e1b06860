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
	held = slices.DeleteFunc(slices.Clone(held), func(a string) bool {
		return slices.ContainsFunc(s.offers, func(o *offer) bool { return o.artifact == a && o.withdrawn() })
	})
	for _, o := range slices.Backward(s.offers) {
		if !o.withdrawn() {
			held = append(held, o.artifact)
		}
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
