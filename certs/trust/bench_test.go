package trust_test

import (
	"testing"

	"groundswell/certs/trust"
)

// BenchmarkSignAssignment is what a change of membership costs per device.
func BenchmarkSignAssignment(b *testing.B) {
	w := newWorld(b)
	for b.Loop() {
		if _, err := trust.SignAssignment(w.assignment(1), now.Add(day), w.directorKeys[0]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkManifest is what a check-in costs a device per cohort.
func BenchmarkManifest(b *testing.B) {
	w := newWorld(b)
	s, raw := w.state(), w.sign(w.manifest(1))
	for b.Loop() {
		if _, _, err := s.Manifest(raw, cohort, now); err != nil {
			b.Fatal(err)
		}
	}
}
