package update

import (
	"errors"
	"slices"
	"testing"

	"groundswell/topics"
)

func TestOnlyTheListedMovesAreLegal(t *testing.T) {
	legal := map[State]map[Event]State{
		Idle:        {Start: Downloading},
		Downloading: {Fetched: Verified, Stop: Idle, Fail: Failed},
		Verified:    {Placed: Staged, Lost: Downloading, Stop: Idle, Fail: Failed},
		Staged:      {Jump: Trying, Lost: Downloading, Stop: Idle, Fail: Failed},
		Trying:      {Healthy: Committed, Unhealthy: RolledBack, Unarmed: Staged},
		Committed:   {Closed: Idle, Unhealthy: RolledBack},
		RolledBack:  {Closed: Idle},
		Failed:      {Closed: Idle},
	}
	for _, s := range States() {
		for _, e := range Events() {
			to, effects, err := Step(s, e)
			want, ok := legal[s][e]
			if !ok {
				if !errors.Is(err, ErrTransition) || to != s || effects != nil {
					t.Errorf("%s in %s: got %s, %v, %v; want ErrTransition and no move", e, s, to, effects, err)
				}
				continue
			}
			if err != nil || to != want || len(effects) == 0 {
				t.Errorf("%s in %s: got %s, %v, %v; want %s", e, s, to, effects, err, want)
			}
		}
	}
}

func TestNothingLeavesTrialButByHealthOrFallback(t *testing.T) {
	for _, e := range []Event{Stop, Fail, Closed, Start, Lost} {
		if _, _, err := Step(Trying, e); !errors.Is(err, ErrTransition) {
			t.Errorf("%s ends a trial", e)
		}
	}
}

func TestFallbackIsArmedBeforeAnythingElseOfTheTrial(t *testing.T) {
	_, effects, err := Step(Staged, Jump)
	if err != nil || effects[0] != Arm {
		t.Fatalf("effects %v, err %v", effects, err)
	}
}

func TestTerminalStatesCloseLast(t *testing.T) {
	for _, s := range States() {
		closes := effects[s][len(effects[s])-1] == Close
		if closes != s.Terminal() || slices.Contains(effects[s][:len(effects[s])-1], Close) {
			t.Errorf("%s: effects %v, terminal %v", s, effects[s], s.Terminal())
		}
		if s.Terminal() && slices.Contains(effects[s], Report) {
			t.Errorf("%s would be reported twice", s)
		}
	}
}

func TestResumeKnowsEveryState(t *testing.T) {
	cases := []struct {
		state State
		trial Trial
		want  State
		first Effect
	}{
		{Idle, NotArmed, Idle, Decide},
		{Downloading, NotArmed, Downloading, Report},
		{Verified, NotArmed, Verified, Report},
		{Staged, NotArmed, Staged, Report},
		{Trying, NotArmed, Staged, Report},
		{Trying, OnTrial, Trying, Report},
		{Trying, FellBack, RolledBack, FallBack},
		{Committed, OnTrial, Committed, Confirm},
		{Committed, FellBack, RolledBack, FallBack},
		{Committed, NotArmed, RolledBack, FallBack},
		{RolledBack, NotArmed, RolledBack, FallBack},
		{RolledBack, OnTrial, RolledBack, FallBack},
		{RolledBack, FellBack, RolledBack, FallBack},
		{Failed, NotArmed, Failed, Discard},
	}
	seen := map[State]bool{}
	for _, c := range cases {
		seen[c.state] = true
		got, effects, err := Resume(c.state, c.trial)
		if err != nil || got != c.want || effects[0] != c.first {
			t.Errorf("%s with trial %d: got %s, %v, %v; want %s, %s first", c.state, c.trial, got, effects, err, c.want, c.first)
		}
		if c.state == Trying && slices.Contains(effects, Arm) {
			t.Error("a trial is armed again without a fresh look at the manifest")
		}
	}
	for _, s := range States() {
		if !seen[s] {
			t.Errorf("no case for %s", s)
		}
	}
	if _, _, err := Resume("dancing", NotArmed); !errors.Is(err, ErrTransition) {
		t.Errorf("unknown state: %v", err)
	}
}

func TestEveryStateCanBeReported(t *testing.T) {
	for _, s := range States() {
		if s != Idle && !slices.Contains(topics.States(), topics.State(s)) {
			t.Errorf("%s is not a state of the wire contract", s)
		}
	}
}
