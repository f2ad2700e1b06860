package fleet_test

import (
	"strings"
	"testing"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

const minute = fleet.Duration(time.Minute)

func TestGate(t *testing.T) {
	policy := fleet.GatePolicy{SuccessPercent: 95, MinSample: 50, MaxSilentPercent: 5}
	soaking := fleet.Wave{Soak: 10 * minute}
	soaked := fleet.Wave{Soak: 10 * minute, SampleAt: t0.Add(-10 * time.Minute)}
	for name, c := range map[string]struct {
		wave    fleet.Wave
		counts  fleet.Counts
		sampled bool
		pass    bool
		waits   string
	}{
		"no outcome yet":                   {soaked, fleet.Counts{Members: 1000}, false, false, "0 of 50 outcomes"},
		"one short of the sample":          {soaked, fleet.Counts{Members: 1000, Committed: 49}, false, false, "49 of 50"},
		"sample of a small wave":           {soaked, fleet.Counts{Members: 3, Committed: 3}, true, true, ""},
		"small wave, one missing":          {soaked, fleet.Counts{Members: 3, Committed: 2}, false, false, "2 of 3"},
		"exactly the success share":        {soaked, fleet.Counts{Members: 100, Committed: 95, Failed: 5}, true, true, ""},
		"below the success share":          {soaked, fleet.Counts{Members: 100, Committed: 94, Failed: 6}, true, false, "95 % needed"},
		"silence counts as failure":        {soaked, fleet.Counts{Members: 100, Committed: 94, Silent: 6}, true, false, "95 % needed"},
		"exactly the silent share":         {soaked, fleet.Counts{Members: 100, Committed: 95, Silent: 3, Unreached: 2}, true, true, ""},
		"too many unreached":               {soaked, fleet.Counts{Members: 100, Committed: 90, Unreached: 6}, true, false, "silent or unreached"},
		"sample reached, soak begins":      {soaking, fleet.Counts{Members: 1, Committed: 1}, true, false, "soak time"},
		"soak not over":                    {fleet.Wave{Soak: 10 * minute, SampleAt: t0.Add(-10*time.Minute + 1)}, fleet.Counts{Members: 1, Committed: 1}, true, false, "soak time until"},
		"no soak":                          {fleet.Wave{}, fleet.Counts{Members: 1, Committed: 1}, true, true, ""},
		"wave without eligible devices":    {soaked, fleet.Counts{}, true, true, ""},
		"all failed does not pass as done": {soaked, fleet.Counts{Members: 2, Failed: 2, Decided: 2}, true, false, "95 % needed"},
	} {
		got := fleet.Gate(policy, c.wave, c.counts, t0)
		if got.Sampled != c.sampled || got.Pass != c.pass || !strings.Contains(got.Waits, c.waits) {
			t.Errorf("%s: got %+v", name, got)
		}
		if got.Pass != (got.Waits == "") {
			t.Errorf("%s: pass %v, but waits for %q", name, got.Pass, got.Waits)
		}
	}
}

func TestBreaker(t *testing.T) {
	policy := fleet.BreakerPolicy{Percent: 2, Window: 10 * minute, MinSample: 50}
	absolute := policy
	absolute.Absolute = 3
	for name, c := range map[string]struct {
		policy fleet.BreakerPolicy
		window []fleet.Tally
		reason string // "": does not trip
	}{
		"nothing happened":          {policy, nil, ""},
		"exactly 2 % is no trip":    {policy, []fleet.Tally{{Sample: 50, Failures: 1, Members: 1000}}, ""},
		"above 2 %":                 {policy, []fleet.Tally{{Sample: 100, Failures: 3, Members: 1000}}, "3 of 100 devices failed (3 %, limit 2 % in 10m0s)"},
		"below the minimum sample":  {policy, []fleet.Tally{{Sample: 49, Failures: 49, Members: 1000}}, ""},
		"at the minimum sample":     {policy, []fleet.Tally{{Sample: 50, Failures: 2, Members: 1000}}, "2 of 50"},
		"the only canary fails":     {policy, []fleet.Tally{{Sample: 1, Failures: 1, Members: 1}}, "1 of 1 devices failed (100 %, limit 2 % in 10m0s)"},
		"one of two canaries":       {policy, []fleet.Tally{{Sample: 1, Failures: 1, Members: 2}}, ""},
		"absolute, sample is small": {absolute, []fleet.Tally{{Sample: 4, Failures: 3, Members: 1000}}, "limit 3 devices"},
		"below absolute":            {absolute, []fleet.Tally{{Sample: 4, Failures: 2, Members: 1000}}, ""},
		"a slice hidden in the whole": {policy, []fleet.Tally{
			{Sample: 1000, Failures: 15, Members: 5000},
			{Slice: "model", Value: "m1", Sample: 950, Failures: 0, Members: 4000},
			{Slice: "model", Value: "m2", Sample: 50, Failures: 15, Members: 100, FirstReason: "health-http"}},
			"15 of 50 devices failed (30 %, limit 2 % in 10m0s), slice model=m2; first reason health-http"},
		"one rare device of a big rollout": {policy, []fleet.Tally{{Sample: 10, Failures: 1, Members: 50, Reached: 50},
			{Slice: "model", Value: "m9", Sample: 1, Failures: 1, Members: 1, Reached: 50}}, ""},
		"five rare devices of a big rollout": {policy, []fleet.Tally{{Sample: 10, Failures: 1, Members: 50, Reached: 50},
			{Slice: "model", Value: "m9", Sample: 5, Failures: 1, Members: 5, Reached: 50}}, "slice model=m9"},
		"a slice of a tiny fleet": {policy, []fleet.Tally{{Sample: 3, Failures: 1, Members: 4, Reached: 4},
			{Slice: "model", Value: "m9", Sample: 3, Failures: 1, Members: 3, Reached: 3}}, "slice model=m9"},
		"a slice below its sample": {policy, []fleet.Tally{{Sample: 1000, Failures: 1, Members: 5000},
			{Slice: "region", Value: "eu", Sample: 1, Failures: 1, Members: 40}}, ""},
	} {
		reason, tripped := fleet.Breaker(c.policy, c.window, nil)
		if tripped != (c.reason != "") || !strings.Contains(reason, c.reason) {
			t.Errorf("%s: got %v %q", name, tripped, reason)
		}
	}
}

func TestSlowFailuresTrip(t *testing.T) {
	policy := fleet.BreakerPolicy{Percent: 2, Window: 10 * minute, MinSample: 50}
	few := []fleet.Tally{{Sample: 3, Failures: 3, Members: 50}}
	for name, c := range map[string]struct {
		window, newest []fleet.Tally
		reason         string
	}{
		"three at a time":           {few, []fleet.Tally{{Sample: 50, Failures: 20, Members: 50}}, "20 of 50 devices failed (40 %, limit 2 % of the newest outcomes)"},
		"an empty window":           {nil, []fleet.Tally{{Sample: 50, Failures: 2, Members: 50}}, "2 of 50"},
		"below the minimum sample":  {few, []fleet.Tally{{Sample: 49, Failures: 49, Members: 50}}, ""},
		"exactly 2 % is no trip":    {nil, []fleet.Tally{{Sample: 50, Failures: 1, Members: 50}}, ""},
		"the window has its sample": {[]fleet.Tally{{Sample: 100, Failures: 2, Members: 100}}, []fleet.Tally{{Sample: 50, Failures: 2, Members: 50}}, ""},
		"one slice": {[]fleet.Tally{{Sample: 100, Failures: 1, Members: 100}}, []fleet.Tally{{Sample: 50, Failures: 1, Members: 50},
			{Slice: "model", Value: "m2", Sample: 50, Failures: 20, Members: 50}}, "slice model=m2"},
	} {
		reason, tripped := fleet.Breaker(policy, c.window, c.newest)
		if tripped != (c.reason != "") || !strings.Contains(reason, c.reason) {
			t.Errorf("%s: got %v %q", name, tripped, reason)
		}
	}
}

func TestDecide(t *testing.T) {
	policy := fleet.DefaultPolicy(topics.EntryUpdate)
	open := fleet.Wave{Index: 0, Percent: 1, State: fleet.WaveOpen, SampleAt: t0.Add(-time.Hour), Soak: minute}
	last := fleet.Wave{Index: 1, Percent: 100, State: fleet.WaveOpen}
	first := fleet.Rollout{Policy: policy, StartedAt: t0.Add(-time.Hour), Waves: []fleet.Wave{open, {Index: 1, State: fleet.WavePending}}}
	second := first
	second.Waves = []fleet.Wave{{State: fleet.WavePassed}, last}
	resumed := second
	resumed.ResumedAt = t0.Add(-time.Minute)
	done := first
	done.State, done.Waves = fleet.Completed, []fleet.Wave{{State: fleet.WavePassed}}
	again := done
	again.State = fleet.Running
	old := first
	old.StartedAt = t0.Add(-time.Duration(policy.Deadline))
	fresh := first
	fresh.Waves = []fleet.Wave{{Index: 0, Percent: 1, State: fleet.WaveOpen, Soak: minute}, {Index: 1, State: fleet.WavePending}}
	good := fleet.Counts{Members: 1, Committed: 1, Decided: 1}
	failures := []fleet.Tally{{Sample: 1, Failures: 1, Members: 1}}
	for name, c := range map[string]struct {
		rollout  fleet.Rollout
		evidence fleet.Evidence
		want     fleet.Move
	}{
		"gate passes":                      {first, fleet.Evidence{Wave: good}, fleet.Open},
		"gate waits":                       {first, fleet.Evidence{Wave: fleet.Counts{Members: 1}}, fleet.Stay},
		"sample reached":                   {fresh, fleet.Evidence{Wave: good}, fleet.Sampled},
		"breaker before gate":              {first, fleet.Evidence{Wave: good, Window: failures}, fleet.Halt},
		"breaker before completion":        {second, fleet.Evidence{All: good, Window: failures}, fleet.Halt},
		"deadline":                         {old, fleet.Evidence{}, fleet.Complete},
		"breaker before deadline":          {old, fleet.Evidence{Window: failures}, fleet.Halt},
		"all committed":                    {second, fleet.Evidence{All: good}, fleet.Complete},
		"one undecided":                    {second, fleet.Evidence{All: fleet.Counts{Members: 2, Committed: 1, Decided: 1}}, fleet.Stay},
		"nobody undecided":                 {second, fleet.Evidence{All: fleet.Counts{Members: 100, Committed: 99, Failed: 1, Decided: 100}}, fleet.Complete},
		"nobody undecided, too many fail":  {second, fleet.Evidence{All: fleet.Counts{Members: 100, Committed: 60, Failed: 40, Decided: 100}}, fleet.Halt},
		"the same, resumed since":          {resumed, fleet.Evidence{All: fleet.Counts{Members: 100, Committed: 60, Failed: 40, Decided: 100}}, fleet.Complete},
		"completed, late devices fail":     {done, fleet.Evidence{Newest: failures}, fleet.Halt},
		"completed":                        {done, fleet.Evidence{Newest: []fleet.Tally{{Sample: 50, Members: 50}}}, fleet.Stay},
		"late devices halted, resumed":     {again, fleet.Evidence{}, fleet.Complete},
		"nobody yet, in the last wave":     {second, fleet.Evidence{}, fleet.Stay},
		"everyone had the version already": {second, fleet.Evidence{Proven: true}, fleet.Complete},
		"nobody yet, in the first wave":    {first, fleet.Evidence{}, fleet.Stay},
		"somebody behind an empty wave":    {first, fleet.Evidence{Beyond: true}, fleet.Widen},
		"behind the last, empty wave":      {second, fleet.Evidence{Beyond: true}, fleet.Widen},
		"an empty wave after a success":    {first, fleet.Evidence{Proven: true}, fleet.Open},
	} {
		c.evidence.Now = t0
		if got := fleet.Decide(c.rollout, c.evidence); got.Move != c.want {
			t.Errorf("%s: got %+v, want %s", name, got, c.want)
		}
	}
}
