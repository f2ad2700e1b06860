package link

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"groundswell/agent/telemetry"
	"groundswell/topics"
)

// Saving is when a device that should stay connected polls instead, because its battery
// is low. It never does while it is plugged in or charging, nor when it does not know.
type Saving struct {
	// Below is the charge in percent below which it begins to poll; 0: never.
	Below int
	// Back is the charge at which it stays connected again; above Below, so that it
	// does not go to and fro.
	Back int
	// Every is how often it looks. 0 means a minute.
	Every time.Duration
}

// saver knows whether the battery is to be saved.
type saver struct {
	Saving
	power func() (telemetry.Power, bool)

	mu sync.Mutex // guards on
	on bool
}

func newSaver(s Saving, m telemetry.Machine) *saver {
	s.Every = cmp.Or(s.Every, time.Minute)
	return &saver{Saving: s, power: m.Power}
}

func (s *saver) saves() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.on
}

// look looks at the battery, and reports whether that changes anything.
func (s *saver) look(log *slog.Logger) (changed bool) {
	if s.Below == 0 {
		return false
	}
	p, known := s.power()
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.on
	switch {
	case !known || p.External || p.Percent >= s.Back:
		s.on = false
	case p.Percent < s.Below:
		s.on = true
	}
	if s.on == before {
		return false
	}
	if s.on {
		log.Warn("battery is low: the device polls until it is not", "percent", p.Percent, "back_percent", s.Back)
	} else {
		log.Info("battery is not low any more", "percent", p.Percent, "external", p.External)
	}
	return true
}

// ticker ticks as often as the battery is to be looked at.
func (s *saver) ticker() (tick <-chan time.Time, stop func()) {
	if s.Below == 0 {
		return nil, func() {}
	}
	t := time.NewTicker(s.Every)
	return t.C, t.Stop
}

// saving reports whether the device polls only because of its battery.
func (l *Link) saving() bool {
	mode, _, _ := l.assigned()
	return mode == topics.ModeConnected && l.saver.saves()
}

// farewell tells, while there is a connection, that the device polls from now on: nobody
// is to take it for lost.
func (l *Link) farewell(ctx context.Context) {
	if !l.Connected() {
		return
	}
	l.Heartbeat()
	_ = l.drain(ctx, ctx.Done(), ctx.Err) // what is not taken now stays for the first check-in
}
