package topics

import (
	"errors"
	"strings"
	"testing"
)

func deltaIndex() DeltaIndex {
	digest := func(c string) string { return strings.Repeat(c, 64) }
	return DeltaIndex{
		Schema: Schema, Artifact: digest("a"),
		Deltas:   []Delta{{From: digest("b"), Document: Document{Length: 5, SHA256: digest("c")}}},
		Expanded: []Delta{{From: digest("b"), Document: Document{Length: 4, SHA256: digest("d")}}, {From: digest("e"), Document: Document{Length: 4, SHA256: digest("f")}}},
	}
}

func TestADeltaIndexIsChecked(t *testing.T) {
	for field, spoil := range map[string]func(x *DeltaIndex){
		"deltas[0].from":     func(x *DeltaIndex) { x.Deltas[0].From = "b" },
		"deltas[1].from":     func(x *DeltaIndex) { x.Deltas = append(x.Deltas, x.Deltas[0]) },
		"expanded[1].from":   func(x *DeltaIndex) { x.Expanded[1].From = x.Expanded[0].From },
		"expanded[0].length": func(x *DeltaIndex) { x.Expanded[0].Length = 0 },
		"expanded[1].sha256": func(x *DeltaIndex) { x.Expanded[1].SHA256 = "F" },
	} {
		x := deltaIndex()
		spoil(&x)
		var wrong *FieldError
		if err := x.Validate(); !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := deltaIndex().Validate(); err != nil {
		t.Error(err)
	}
}

// indexOfBefore is what agents read that know of no expanded deltas.
type indexOfBefore struct {
	Schema   int     `json:"schema"`
	Artifact string  `json:"artifact"`
	Deltas   []Delta `json:"deltas"`
}

func (indexOfBefore) Validate() error { return nil }

// TestOlderAgentsReadADeltaIndex, and newer ones one of before.
func TestOlderAgentsReadADeltaIndex(t *testing.T) {
	x := deltaIndex()
	raw, err := Encode(x)
	if err != nil {
		t.Fatal(err)
	}
	if old, err := decode[indexOfBefore](raw, MaxDeltaIndex); err != nil || len(old.Deltas) != 1 || old.Deltas[0] != x.Deltas[0] {
		t.Errorf("%+v, %v", old, err)
	}
	x.Expanded = nil
	if raw, err = Encode(x); err != nil || strings.Contains(string(raw), "expanded") {
		t.Errorf("%s, %v", raw, err)
	}
	if got, err := DecodeDeltaIndex(raw); err != nil || len(got.Expanded) != 0 || len(got.Deltas) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}
