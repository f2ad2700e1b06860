package main

import (
	"crypto/tls"
	"errors"
	"sync"
	"time"

	"groundswell/agent/link"
	"groundswell/agent/telemetry"
	"groundswell/agent/wake"
)

// machineRoot is where /proc and /sys are found, and batteryEvery how often the battery is
// looked at (0: link's default). Tests put others here.
var (
	machineRoot  = "/"
	batteryEvery time.Duration
)

func (p *Polling) validate() error {
	switch {
	case p.Awake < 0:
		return errors.New("polling.awake: must not be negative")
	case p.Bytes < 0:
		return errors.New("polling.bytes: must not be negative")
	case p.BelowPercent < 0 || p.BelowPercent > 100:
		return errors.New("polling.below_percent: must be from 0 to 100")
	case p.BackPercent < 0 || p.BackPercent > 100:
		return errors.New("polling.back_percent: must be from 0 to 100")
	case p.BelowPercent > 0 && p.BackPercent <= p.BelowPercent:
		return errors.New("polling.back_percent: must be above polling.below_percent, or the device would go to and fro")
	}
	return nil
}

func (p *Polling) limits() wake.Limits { return wake.Limits{Awake: p.Awake, Bytes: p.Bytes} }

func (p *Polling) saving() link.Saving {
	return link.Saving{Below: p.BelowPercent, Back: p.BackPercent, Every: batteryEvery}
}

// usesBattery reports whether what the device does now is taken from a battery, or may be: it
// has one, is not plugged in, and does not charge. What the battery says of itself is not
// needed, for it says least when it is in trouble; and of one that the kernel knows nothing of
// it says enough that the device sleeps between its check-ins. That is the safe answer for
// each who asks:
//   - a download, which weighs processor time against bytes: it receives some bytes more than
//     it would have to;
//   - its site, in which only who is on mains takes part: the others fetch what it would have
//     given, and do not wait for what may go out at any moment.
func usesBattery(awake *wake.Wake) bool {
	p, _ := telemetry.Machine{Root: machineRoot}.Power()
	sleeps, _ := awake.Sleeps()
	return !p.External && (p.Battery || sleeps)
}

// tickets are the TLS sessions that the next connections may resume, which saves both
// certificates and a signature on each side. They are in memory only: a ticket stands for
// the device for up to a week to whoever has it, so on disk it would be a second secret
// beside the key, and often in a worse place; and each wake would write to the flash.
//
// They go with the certificate that they were given for: a resumed session shows the
// broker the old one.
type tickets struct {
	current func() string // names the certificate

	mu    sync.Mutex // guards what follows
	of    string
	cache tls.ClientSessionCache
}

// maxTickets is for how many servers tickets are kept.
const maxTickets = 16

func newTickets(current func() string) *tickets { return &tickets{current: current} }

// Get implements tls.ClientSessionCache.
func (t *tickets) Get(key string) (*tls.ClientSessionState, bool) { return t.own().Get(key) }

// Put implements tls.ClientSessionCache.
func (t *tickets) Put(key string, session *tls.ClientSessionState) { t.own().Put(key, session) }

// own is the cache of the present certificate.
func (t *tickets) own() tls.ClientSessionCache {
	now := t.current()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cache == nil || t.of != now {
		t.of, t.cache = now, tls.NewLRUClientSessionCache(maxTickets)
	}
	return t.cache
}
