package peers

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"groundswell/agent/peers/mdns"
)

const (
	// maxNear is how many devices are known at once that have proved who they are, besides
	// those that are listed.
	maxNear = 64
	// maxStrange is at how many places more devices were announced that have not, and
	// maxAtOne how many of these may be at one address: it takes as many addresses to keep
	// others out.
	maxStrange, maxAtOne = 128, 4
	// maxAsked is how many neighbours are asked about an artifact at once, and leastStrange
	// how many of them may be such that have not proved who they are in any case.
	maxAsked, leastStrange = 16, 4
	// farewell is how long one that says to be gone is still known (RFC 6762, 10.1): if it is
	// not, it says so.
	farewell = time.Second
)

// met notes what was announced. Anybody may have announced it: it is a place where a
// device may be, and counts for nothing before that one has proved who it is.
func (s *Site) met(f mdns.Found) {
	artifacts, ok := artifactsOf(f.Text, s.opt.TrustDomain)
	if !ok || f.Name == s.name {
		return
	}
	addr := f.Addr.String()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	n := s.near[addr]
	switch {
	case f.TTL <= 0:
		// One that has delivered is found out when it does not any more.
		if n != nil && !n.static && !n.proven && n.expires.After(now.Add(farewell)) {
			n.expires = now.Add(farewell)
		}
		return
	case n == nil:
		if place := s.places[addr]; place != nil && now.Before(place.until) {
			return
		}
		s.expire(now)
		s.makeRoom(f.Addr.Addr())
		n = &neighbour{conduct: &conduct{}, addr: addr, name: f.Name, queued: now}
		s.near[addr] = n
	case n.static:
		return
	}
	if n.device == "" {
		n.name = f.Name
	}
	n.artifacts, n.announced = artifacts, now
	if until := now.Add(min(f.TTL, mdns.TTL)); until.After(n.expires) {
		n.expires = until // nobody else shortens it
	}
}

// expire forgets who was not announced for too long. The caller holds mu.
func (s *Site) expire(now time.Time) {
	for addr, n := range s.near {
		if !n.static && now.After(n.expires) {
			delete(s.near, addr)
		}
	}
}

// makeRoom forgets, if need be, a place where one more is announced: of the same address,
// or else of the one that has the most. The caller holds mu.
func (s *Site) makeRoom(at netip.Addr) {
	places, total := map[netip.Addr][]string{}, 0
	for addr, n := range s.near {
		if n.device == "" && !n.static {
			ip := netip.MustParseAddrPort(addr).Addr() // met has written it
			places[ip] = append(places[ip], addr)
			total++
		}
	}
	crowd := places[at]
	if len(crowd) < maxAtOne {
		if total < maxStrange {
			return
		}
		for _, list := range places {
			if len(list) > len(crowd) || len(list) == len(crowd) && rand.N(2) == 0 {
				crowd = list
			}
		}
	}
	delete(s.near, crowd[rand.N(len(crowd))])
}

// maxPlaces is at how many places a device is known that has not delivered: its addresses.
const maxPlaces = 4

// scatter forgets places of a device, if it is known at too many besides a neighbour's: one
// certificate keeps nobody out. The caller holds mu.
func (s *Site) scatter(n *neighbour, device string) {
	var same []string
	for addr, o := range s.near {
		if o != n && o.device == device && !o.static && !o.proven {
			same = append(same, addr)
		}
	}
	if len(same) >= maxPlaces {
		delete(s.near, same[rand.N(len(same))])
	}
}

// recognised notes who is at a neighbour's place, by the certificate. The caller holds mu.
func (s *Site) recognised(n *neighbour, device, name string) {
	delete(s.places, n.addr)
	if n.device == device {
		return
	}
	s.scatter(n, device)
	n.device, n.name, n.proven, n.conduct = device, name, false, remembered(s.devices, device, time.Now(), false)
	var others []*neighbour
	total := 0
	for _, o := range s.near {
		if o.device != "" && !o.static {
			if total++; !o.proven && o != n {
				others = append(others, o)
			}
		}
	}
	switch {
	case total <= maxNear:
	case len(others) > 0:
		delete(s.near, others[rand.N(len(others))].addr)
	case !n.static && s.near[n.addr] == n:
		delete(s.near, n.addr)
	}
}

// known are the names of neighbours that need not say again that they are there: by their
// certificates, or others could be kept silent.
func (s *Site) known() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	soon := time.Now().Add(mdns.TTL / 2) // RFC 6762, 7.1
	for _, n := range s.near {
		if n.device != "" && !n.static && n.expires.After(soon) {
			names = append(names, n.name)
		}
	}
	return names
}

// choose are the neighbours that are asked about an artifact now: those that are known, who
// has delivered before the others, and of those that are not, who has waited longest. but
// are those not to be asked.
func (s *Site) choose(artifact string, but func(*neighbour) bool) (known, strange []*neighbour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.expire(now)
	all := make([]*neighbour, 0, len(s.near))
	for _, n := range s.near {
		all = append(all, n)
	}
	// Apart from who has delivered, all devices ask the same ones.
	weights := func(n *neighbour) string { return weight(artifact, 0, n.name+n.addr) }
	slices.SortFunc(all, func(a, b *neighbour) int {
		return cmp.Or(cmp.Compare(rank(a, artifact), rank(b, artifact)), strings.Compare(weights(b), weights(a)))
	})
	names := map[string]bool{}
	for _, n := range all {
		// The same one may be at several addresses.
		if n.device != "" && s.usable(n, now) && !names[n.name] {
			names[n.name] = true
			if !but(n) {
				known = append(known, n)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *neighbour) int { return a.queued.Compare(b.queued) })
	most := maxAsked - min(len(known), maxAsked-leastStrange)
	for _, n := range all {
		if n.device != "" || !s.usable(n, now) || but(n) || n.name != "" && names[n.name] || !n.static && !slices.Contains(n.artifacts, artifact) {
			continue
		}
		names[n.name], n.queued = true, now
		if strange = append(strange, n); len(strange) == most {
			break
		}
	}
	return known[:min(len(known), maxAsked-len(strange))], strange
}

// rank orders who is asked: who has delivered, then who says to have something.
func rank(n *neighbour, artifact string) int {
	switch {
	case n.proven:
		return 0
	case n.static || slices.Contains(n.artifacts, artifact):
		return 1
	}
	return 2
}
