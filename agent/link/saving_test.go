package link

import (
	"log/slog"
	"testing"

	"groundswell/agent/telemetry"
)

func TestSavingHasHysteresisAndNeverBeginsWhilePluggedIn(t *testing.T) {
	var p telemetry.Power
	known := true
	s := newSaver(Saving{Below: 20, Back: 30}, telemetry.Machine{})
	s.power = func() (telemetry.Power, bool) { return p, known }
	for i, step := range []struct {
		power telemetry.Power
		known bool
		on    bool
	}{
		{telemetry.Power{Percent: 20}, true, false},
		{telemetry.Power{Percent: 19, External: true}, true, false},
		{telemetry.Power{Percent: 19}, true, true},
		{telemetry.Power{Percent: 29}, true, true},
		{telemetry.Power{Percent: 30}, true, false},
		{telemetry.Power{Percent: 25}, true, false},
		{telemetry.Power{Percent: 1}, true, true},
		{telemetry.Power{Percent: 1, External: true}, true, false},
		{telemetry.Power{Percent: 1}, true, true},
		{telemetry.Power{}, false, false},
	} {
		p, known = step.power, step.known
		before := s.saves()
		changed := s.look(slog.New(slog.DiscardHandler))
		if s.saves() != step.on || changed != (step.on != before) {
			t.Errorf("step %d, %+v: saves %v, changed %v", i, step, s.saves(), changed)
		}
	}
	off := newSaver(Saving{}, telemetry.Machine{})
	off.power = func() (telemetry.Power, bool) { return telemetry.Power{}, true }
	if off.look(slog.New(slog.DiscardHandler)) || off.saves() {
		t.Error("it saves though it is not to")
	}
}
