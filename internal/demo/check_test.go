package main

import (
	"strings"
	"testing"
	"time"

	"groundswell/internal/devstack/stack"
)

func at(seconds int) *time.Time {
	t := time.Date(2026, 1, 1, 0, 0, seconds, 0, time.UTC)
	return &t
}

// good is a rollout that went as it should.
func good() *stack.Rollout {
	r := &stack.Rollout{State: "completed", Waves: []stack.Wave{
		{State: "passed", Members: 2, OpenedAt: at(0), ClosedAt: at(5), Counts: map[string]int{"committed": 2}},
		{State: "passed", Members: 4, OpenedAt: at(5), ClosedAt: at(9), Counts: map[string]int{"committed": 4}},
		{State: "passed", Members: 6, OpenedAt: at(9), ClosedAt: at(14), Counts: map[string]int{"committed": 6}},
	}}
	r.Release.Version = goodVersion
	r.Transfer = stack.Transfer{Devices: 12, Origin: 30_000, Delta: 10_000, Index: 20_000, Saved: 60_000_000}
	return r
}

// through is the delta that it went by.
var through = stack.Delta{From: oldVersion, Bytes: 800, Plain: 400_000, Listed: true}

// stopped is a bad release's rollout that the breaker paused in time.
func stopped() *stack.Rollout {
	r := &stack.Rollout{State: "paused", Reason: "breaker: 2 of 2 devices failed (100 %, limit 2 % in 10m0s)", Waves: []stack.Wave{
		{State: "open", Members: 2, OpenedAt: at(0), Counts: map[string]int{"rolled_back": 2}},
		{State: "pending", Members: 4}, {State: "pending", Members: 6},
	}}
	r.Release.Version = badVersion
	return r
}

func TestAGoodRolloutThatDidNotComeTrueIsNamed(t *testing.T) {
	if err := checkGood(good(), 12, through); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*stack.Rollout){
		"is paused":                        func(r *stack.Rollout) { r.State = "paused" },
		"11 of 12 devices committed":       func(r *stack.Rollout) { r.Waves[2].Counts["committed"] = 5 },
		"1 devices did not take it":        func(r *stack.Rollout) { r.Waves[1].Counts["rolled_back"] = 1 },
		"its wave 2 is open":               func(r *stack.Rollout) { r.Waves[2].State = "open" },
		"its wave 1 is passed":             func(r *stack.Rollout) { r.Waves[1].ClosedAt = nil },
		"wave 1 of 1.1.0 opened before":    func(r *stack.Rollout) { r.Waves[1].OpenedAt = at(4) },
		"wave 2 of 1.1.0 opened before wa": func(r *stack.Rollout) { r.Waves[1].ClosedAt = at(10) },
		"not go by delta: {Devices:11":     func(r *stack.Rollout) { r.Transfer.Devices = 11 },
		"Delta:0":                          func(r *stack.Rollout) { r.Transfer.Delta = 0 },
		"Saved:100000":                     func(r *stack.Rollout) { r.Transfer.Saved = 100_000 },
		"Full:1":                           func(r *stack.Rollout) { r.Transfer.Full = 1 },
		"Delta:58753":                      func(r *stack.Rollout) { r.Transfer.Delta = 12*(800+4096) + 1 },
		"Delta:4799":                       func(r *stack.Rollout) { r.Transfer.Delta = 12*400 - 1 },
		"Origin:1200001":                   func(r *stack.Rollout) { r.Transfer.Origin = 3*400_000 + 1 },
	} {
		r := good()
		spoil(r)
		wantError(t, checkGood(r, 12, through), want)
	}
}

func TestABadRolloutThatWasNotStoppedIsNamed(t *testing.T) {
	if err := checkStopped(stopped()); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*stack.Rollout){
		"is completed":               func(r *stack.Rollout) { r.State = "completed" },
		"(an operator)":              func(r *stack.Rollout) { r.Reason = "an operator" },
		"wave 1 opened":              func(r *stack.Rollout) { r.Waves[1].OpenedAt = at(3) },
		"no device reported":         func(r *stack.Rollout) { r.Waves[0].Counts = nil },
		"1 devices committed the ba": func(r *stack.Rollout) { r.Waves[0].Counts["committed"] = 1 },
	} {
		r := stopped()
		spoil(r)
		wantError(t, checkStopped(r), want)
	}
}

func TestWhoActivatedTheBadVersionIsACanaryThatRolledBack(t *testing.T) {
	canary, other := 0, 1
	outcomes := []stack.Outcome{
		{Device: "a", Wave: &canary, State: "rolled_back"}, {Device: "b", Wave: &canary, State: "rolled_back"},
		{Device: "c", Wave: &other, State: "rolled_back"}, {Device: "d", Wave: &canary, State: "trying"},
	}
	if err := checkCanaries(outcomes, []string{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	wantError(t, checkCanaries(outcomes, []string{"a", "c"}), "c activated the bad version although")
	wantError(t, checkCanaries(outcomes, []string{"a", "x"}), "x activated the bad version although")
	wantError(t, checkCanaries(outcomes, []string{"d"}), "d activated the bad version and is trying")
	wantError(t, checkCanaries(outcomes, nil), "no device ever")
}

func TestAFleetThatIsNotAsDescribedIsNamed(t *testing.T) {
	whole := func() []stack.Device {
		var devices []stack.Device
		for _, o := range fleet(12) {
			d := stack.Device{ID: o.ID, Model: o.Model, Region: o.Region, TimeZone: o.TimeZone, Mode: "session"}
			if o.Battery {
				d.Mode = "polling"
			}
			devices = append(devices, d)
		}
		return devices
	}
	if err := checkFleet(whole(), 12); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*stack.Device){
		"model cam-b":                func(d *stack.Device) { d.Model = "cam-a" },
		"region us":                  func(d *stack.Device) { d.Region = "eu" },
		"time zone America/New_York": func(d *stack.Device) { d.TimeZone = "Europe/Berlin" },
		"0 devices run in battery":   func(d *stack.Device) { d.Mode = "session" },
	} {
		devices := whole()
		for i := range devices {
			spoil(&devices[i])
		}
		wantError(t, checkFleet(devices, 12), want)
	}
	wantError(t, checkFleet(whole()[1:], 12), "knows 11 devices")
}

func TestFiguresThatAreMissingAreNamed(t *testing.T) {
	whole := func() *Result {
		return &Result{Devices: 12, Rollouts: make([]Outcome, 2), Versions: map[string]int{goodVersion: 12},
			CheckIn: Quantiles{Samples: 12, P50: 5, P99: 9}, PauseToDeviceMillis: 80}
	}
	if err := whole().check(); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*Result){
		"1 rollouts":     func(r *Result) { r.Rollouts = r.Rollouts[:1] },
		"the devices ru": func(r *Result) { r.Versions = map[string]int{goodVersion: 11, badVersion: 1} },
		"11 of 12":       func(r *Result) { r.CheckIn.Samples = 11 },
		"the time from":  func(r *Result) { r.PauseToDeviceMillis = 0 },
	} {
		r := whole()
		spoil(r)
		wantError(t, r.check(), want)
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, expected one with %q", err, want)
	}
}
