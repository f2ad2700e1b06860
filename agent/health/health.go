// Package health decides whether a version on trial may stay: it is up, every check
// holds, and both have done so without a break for the settling time. It has a total
// time in which to get there; slow starts and a crash or two are forgiven within that,
// a fallback by the slots is not.
package health

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Config says what healthy means. The zero values mean the defaults.
type Config struct {
	// URL answers 200 when the component is well. "{addr}" in it stands for the
	// address that the component was given. Empty: a running process is enough.
	URL string
	// Checks must hold as well.
	Checks []Check
	// Before is what the metrics among the checks were before the update, by name.
	Before map[string]float64
	// Own is asked besides, and is a check of kind "agent"; nil: nothing. It returns soon.
	Own func() error
	// Interval between two checks. Default 2 s.
	Interval time.Duration
	// Timeout of one check. Default 2 s.
	Timeout time.Duration
	// Settle is how long it must be well without a break. Default 60 s.
	Settle time.Duration
	// Total is how long it may take until it was. Default 5 min; at least twice
	// Settle.
	Total time.Duration
}

// WithDefaults fills in what is zero.
func (c Config) WithDefaults() Config {
	or := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	or(&c.Interval, 2*time.Second)
	or(&c.Timeout, 2*time.Second)
	or(&c.Settle, time.Minute)
	or(&c.Total, 5*time.Minute)
	c.Total = max(c.Total, 2*c.Settle)
	return c
}

// Offline is for how long the broker may not be heard; 0: no check asks for it.
func (c Config) Offline() (least time.Duration) {
	for _, check := range c.Checks {
		if !check.Broker {
			continue
		}
		offline := check.Offline
		if offline == 0 {
			offline = DefaultOffline
		}
		if least == 0 || offline < least {
			least = offline
		}
	}
	return least
}

// Reasons of a verdict: slugs that count well.
const (
	ReasonHealthy  = "healthy"
	ReasonProcess  = "health-process" // it does not run
	ReasonVersion  = "version"        // something else runs
	ReasonFellBack = "boot-attempts"  // the slots have booted the old version again
)

// Component is what is watched, at one moment.
type Component struct {
	OnTrial bool   // the version on trial is the one that was launched last
	Up      bool   // its process runs
	BootID  string // changes with each launch
	Addr    string
	// Busy: it is still being installed. Its time does not run.
	Busy bool
	// Other is the version that it says it is, if that is not the one on trial.
	Other string
	// Heard: the broker was heard since the boot, HeardAgo at last.
	Heard    bool
	HeardAgo time.Duration
}

// same reports whether nothing was booted between two looks.
func (c Component) same(d Component) bool {
	return c.OnTrial == d.OnTrial && c.Up == d.Up && c.BootID == d.BootID && c.Addr == d.Addr
}

// ReasonOf is the reason of a check that does not hold, by its kind.
func ReasonOf(kind string) string { return "health-" + kind }

// Verdict is the end of a watch.
type Verdict struct {
	Healthy bool
	Reason  string
	Detail  string // for people; may be empty
}

// Watch looks at the component until there is a verdict. It returns ctx's error
// when that ends first.
func Watch(ctx context.Context, cfg Config, look func() Component) (Verdict, error) {
	e := newExaminer(cfg)
	return watch(ctx, cfg, look, func(ctx context.Context, c Component) *problem { return e.ask(ctx, cfg.Timeout, c) })
}

func watch(ctx context.Context, cfg Config, look func() Component, ask func(context.Context, Component) *problem) (Verdict, error) {
	began := time.Now()
	tick := time.NewTicker(cfg.Interval)
	defer tick.Stop()
	var since time.Time // of the present streak; zero: it is not well
	var boot string
	last := Verdict{Reason: ReasonProcess}
	for {
		c := look()
		switch {
		case !c.OnTrial:
			// Why it could not stay up is more telling than that it did not.
			return Verdict{Reason: ReasonFellBack, Detail: strings.TrimSpace(last.Reason + " " + last.Detail)}, nil
		case c.Busy:
			began, since = time.Now(), time.Time{}
		case c.Other != "":
			since, last = time.Time{}, Verdict{Reason: ReasonVersion, Detail: "it says that it is " + c.Other}
		case !c.Up:
			since, last = time.Time{}, Verdict{Reason: ReasonProcess, Detail: "the process has ended"}
		default:
			if c.BootID != boot {
				boot, since = c.BootID, time.Time{}
			}
			if p := ask(ctx, c); p != nil {
				if ctx.Err() != nil {
					return Verdict{}, ctx.Err()
				}
				since, last = time.Time{}, Verdict{Reason: ReasonOf(p.kind), Detail: p.err.Error()}
			} else if after := look(); !after.same(c) {
				// It crashed while it was asked, and the next launch may have answered,
				// or the old version: whatever is there now is looked at anew.
				since, last = time.Time{}, Verdict{Reason: ReasonProcess, Detail: "it was launched again while it was asked"}
			} else if since.IsZero() {
				since = time.Now()
			}
		}
		if now := time.Now(); !since.IsZero() && now.Sub(since) >= cfg.Settle {
			return Verdict{Healthy: true, Reason: ReasonHealthy}, nil
		} else if now.Sub(began) >= cfg.Total {
			if !since.IsZero() {
				last.Detail = fmt.Sprintf("not well for %v on end: %s", cfg.Settle, last.Detail)
			}
			return last, nil
		}
		select {
		case <-ctx.Done():
			return Verdict{}, ctx.Err()
		case <-tick.C:
		}
	}
}

// ask is nil when the URL answers 200.
func ask(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // the status is what counts
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %d", resp.StatusCode)
	}
	return nil
}
