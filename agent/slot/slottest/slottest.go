// Package slottest is what all kinds of slots have to show, whatever boots them: the
// promises of deploy.Slots, one test each.
package slottest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"testing"

	"groundswell/agent/deploy"
	"groundswell/agent/slot"
	"groundswell/agent/update"
)

// Tries is how many boots a trial has on a Device.
const Tries = 3

// Device has slots of some kind, with version 1.0.0 in slot a, confirmed. Its methods
// end the test when they fail.
type Device interface {
	// Boot resets the device, whatever it is doing, and returns its slots.
	Boot() deploy.Slots
	// Do is for what may boot the device. It returns the slots that are there
	// afterwards, and do's error if it did not.
	Do(do func(ctx context.Context) error) (deploy.Slots, error)
	// Bytes are those of a version.
	Bytes(version string) []byte
	// Damage changes something in the middle of what a slot holds.
	Damage(slot string)
}

// Run tests the slots of devices that fresh makes.
func Run(t *testing.T, fresh func(t *testing.T) Device) {
	for name, test := range map[string]func(r *rig){
		"what is staged does not boot by itself":       (*rig).staged,
		"a confirmed trial boots by itself":            (*rig).confirmed,
		"one update after the other":                   (*rig).again,
		"a trial has so many boots":                    (*rig).exhausted,
		"a trial that is ended never boots again":      (*rig).ended,
		"a trial that was put back is remembered":      (*rig).remembered,
		"a trial that was not taken is over":           (*rig).unstaged,
		"what is not what it should be is not staged":  (*rig).wrong,
		"what is damaged does not boot":                (*rig).damaged,
		"nobody confirms what does not run":            (*rig).unknown,
		"staging finds what was staged before":         (*rig).repeated,
		"a part that was downloaded is still there":    (*rig).resumed,
		"what is downloaded is removed, and that only": (*rig).discarded,
		"a confirmation can be taken back":             (*rig).reverted,
	} {
		t.Run(name, func(t *testing.T) {
			d := fresh(t)
			r := &rig{T: t, device: d, slots: d.Boot()}
			r.runs("1.0.0", "a", false)
			test(r)
		})
	}
}

type rig struct {
	*testing.T
	device Device
	slots  deploy.Slots
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) boot() { r.slots = r.device.Boot() }

func (r *rig) do(do func(ctx context.Context) error) error {
	slots, err := r.device.Do(do)
	r.slots = slots
	return err
}

// runs wants to see that version.
func (r *rig) runs(version, slot string, trial bool) {
	r.Helper()
	if got := r.slots.Running(); got.Image.Version != version || got.Slot != slot || got.Trial != trial || got.BootID == "" {
		r.Fatalf("runs %s in slot %s, trial %v, boot %q; want %s in %s, trial %v", got.Image.Version, got.Slot, got.Trial, got.BootID, version, slot, trial)
	}
}

// Image is what a slot with these bytes holds.
func Image(version string, data []byte) slot.Image {
	sum := sha256.Sum256(data)
	return slot.Image{Version: version, Release: "test", SHA256: hex.EncodeToString(sum[:]), Length: int64(len(data))}
}

func (r *rig) image(version string) (slot.Image, []byte) {
	data := r.device.Bytes(version)
	return Image(version, data), data
}

func (r *rig) download(sha256 string, data []byte) {
	r.Helper()
	path, err := r.slots.Staging(sha256)
	r.must(err)
	r.must(os.WriteFile(path, data, 0o600))
}

// stage puts a version into the idle slot, which it wants to be that one.
func (r *rig) stage(version, want string) {
	r.Helper()
	image, data := r.image(version)
	r.download(image.SHA256, data)
	got, err := r.slots.Stage(image)
	r.must(err)
	if got != want {
		r.Fatalf("staged in slot %s, want %s", got, want)
	}
}

// try puts a version on trial.
func (r *rig) try(version, slot string) {
	r.Helper()
	r.stage(version, slot)
	before := r.slots.Running().BootID
	r.must(r.do(r.slots.Activate))
	r.runs(version, slot, true)
	if r.slots.Running().BootID == before {
		r.Fatal("the boot has the id of the one before")
	}
	r.stands(slot, update.OnTrial, true)
}

// fallBack falls back as the driver does: again, if that booted the device.
func (r *rig) fallBack() {
	r.Helper()
	r.must(r.do(r.slots.FallBack))
	r.must(r.do(r.slots.FallBack))
}

// stands wants that of a slot's trial.
func (r *rig) stands(slot string, trial update.Trial, armed bool) {
	r.Helper()
	if got := r.slots.Trial(slot); got != trial || r.slots.Armed() != armed {
		r.Fatalf("trial of slot %s: %v, armed %v; want %v, %v", slot, got, r.slots.Armed(), trial, armed)
	}
}

func (r *rig) staged() {
	r.stage("1.1.0", "b")
	r.runs("1.0.0", "a", false)
	for range Tries + 1 {
		r.boot()
		r.runs("1.0.0", "a", false)
		r.stands("b", update.NotArmed, false)
	}
}

func (r *rig) confirmed() {
	r.try("1.1.0", "b")
	for range 2 {
		r.must(r.slots.Confirm(r.Context(), "b"))
		r.stands("b", update.OnTrial, false)
	}
	for range Tries + 1 {
		r.boot()
		r.runs("1.1.0", "b", false)
	}
	r.stands("a", update.NotArmed, false)
}

// reverter are slots that can be part of a group; see package group.
type reverter interface {
	Revert(ctx context.Context, slot string) error
	Final() bool
}

func (r *rig) reverted() {
	revert := func() error {
		return r.do(func(ctx context.Context) error { return r.slots.(reverter).Revert(ctx, "b") })
	}
	if _, ok := r.slots.(reverter); !ok {
		return
	}
	for _, version := range []string{"1.1.0", "1.2.0"} {
		r.try(version, "b")
		r.must(r.slots.Confirm(r.Context(), "b"))
		if r.slots.(reverter).Final() {
			if err := revert(); !errors.Is(err, slot.ErrNoFallback) {
				r.Fatalf("revert: %v", err)
			}
			r.runs(version, "b", false)
			return
		}
		r.boot()
		for range 2 {
			r.must(revert())
			r.runs("1.0.0", "a", false)
		}
		r.stands("b", update.NotArmed, false)
		for range Tries {
			r.boot()
			r.runs("1.0.0", "a", false)
		}
	}
}

func (r *rig) again() {
	slot := "b"
	for _, version := range []string{"1.1.0", "1.2.0", "1.3.0"} {
		r.try(version, slot)
		r.must(r.slots.Confirm(r.Context(), slot))
		r.boot()
		r.runs(version, slot, false)
		slot = map[string]string{"a": "b", "b": "a"}[slot]
	}
}

func (r *rig) exhausted() {
	r.try("1.1.0", "b")
	for range Tries - 1 {
		r.boot()
		r.runs("1.1.0", "b", true)
		r.stands("b", update.OnTrial, true)
	}
	r.boot()
	r.runs("1.0.0", "a", false)
	r.stands("b", update.FellBack, true)
	if err := r.slots.Confirm(r.Context(), "b"); !errors.Is(err, slot.ErrGivenUp) {
		r.Fatalf("confirm: %v", err)
	}
	r.fallBack()
	r.runs("1.0.0", "a", false)
	r.stands("b", update.NotArmed, false)
	r.try("1.2.0", "b") // and another one has all its boots
	for range Tries - 1 {
		r.boot()
		r.runs("1.2.0", "b", true)
	}
}

func (r *rig) ended() {
	r.try("1.1.0", "b")
	for range 2 {
		r.fallBack()
		r.runs("1.0.0", "a", false)
		r.stands("b", update.NotArmed, false)
	}
	for range Tries + 1 {
		r.boot()
		r.runs("1.0.0", "a", false)
	}
}

// remembered: while the journal cannot be written, the slots are all that knows.
func (r *rig) remembered() {
	putBack := func() {
		r.Helper()
		for range 2 { // again, if that booted the device
			r.must(r.do(func(ctx context.Context) error { return deploy.PutBack(ctx, r.slots, "b") }))
		}
		r.runs("1.0.0", "a", false)
		r.stands("b", update.FellBack, true)
	}
	r.try("1.1.0", "b")
	for range Tries {
		putBack() // as the driver does, again and again
		r.boot()
		r.runs("1.0.0", "a", false)
		r.stands("b", update.FellBack, true)
	}
	r.fallBack()
	r.stands("b", update.NotArmed, false)
	r.try("1.2.0", "b")
}

func (r *rig) unstaged() {
	r.try("1.1.0", "b")
	for range Tries {
		r.boot()
	}
	r.runs("1.0.0", "a", false)
	r.stage("1.2.0", "b") // without an end of that trial
	r.stands("b", update.NotArmed, false)
	r.boot()
	r.runs("1.0.0", "a", false)
}

func (r *rig) wrong() {
	image, data := r.image("1.1.0")
	for name, bytes := range map[string][]byte{
		"nothing": nil, "a part": data[:len(data)/2], "too much": append(data[:len(data):len(data)], 0),
		"other bytes": append(data[:len(data)-1:len(data)-1], ^data[len(data)-1]),
	} {
		if bytes != nil {
			r.download(image.SHA256, bytes)
		}
		if _, err := r.slots.Stage(image); !errors.Is(err, slot.ErrNotStaged) {
			r.Fatalf("%s: %v", name, err)
		}
		if err := r.do(r.slots.Activate); err == nil {
			r.Fatalf("%s: activated", name)
		}
		r.runs("1.0.0", "a", false)
		r.must(r.slots.Discard())
	}
	r.boot()
	r.runs("1.0.0", "a", false)
}

func (r *rig) damaged() {
	r.stage("1.1.0", "b")
	r.device.Damage("b")
	if err := r.do(r.slots.Activate); err == nil { // or the boot was refused
		r.fallBack()
	}
	r.runs("1.0.0", "a", false)
	r.boot()
	r.runs("1.0.0", "a", false)
	r.try("1.1.0", "b") // downloaded again
}

func (r *rig) unknown() {
	for _, name := range []string{"b", "c", ""} {
		if err := r.slots.Confirm(r.Context(), name); !errors.Is(err, slot.ErrGivenUp) {
			r.Fatalf("confirm %q: %v", name, err)
		}
	}
	r.stands("", update.NotArmed, false)
	r.stands("b", update.NotArmed, false)
	r.boot()
	r.runs("1.0.0", "a", false)
}

func (r *rig) repeated() {
	r.stage("1.1.0", "b")
	image, _ := r.image("1.1.0")
	r.boot()
	for range 2 { // nothing was downloaded again
		if got, err := r.slots.Stage(image); err != nil || got != "b" {
			r.Fatalf("got %s, %v", got, err)
		}
	}
	r.must(r.do(r.slots.Activate))
	r.runs("1.1.0", "b", true)
}

func (r *rig) resumed() {
	image, data := r.image("1.1.0")
	r.download(image.SHA256, data[:1000])
	r.boot()
	path, err := r.slots.Staging(image.SHA256)
	r.must(err)
	if have, err := os.ReadFile(path); err != nil || len(have) != 1000 {
		r.Fatalf("%d bytes, %v", len(have), err)
	}
	other, err := r.slots.Staging(hex.EncodeToString(make([]byte, 32)))
	r.must(err)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) || other == path {
		r.Fatalf("beside another artifact: %v", err)
	}
}

func (r *rig) discarded() {
	r.stage("1.1.0", "b")
	image, _ := r.image("1.2.0")
	r.download(image.SHA256, []byte("a part"))
	for range 2 {
		r.must(r.slots.Discard())
	}
	path, err := r.slots.Staging(image.SHA256)
	r.must(err)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		r.Fatal(err)
	}
	r.runs("1.0.0", "a", false)
	staged, _ := r.image("1.1.0")
	if _, err := r.slots.Stage(staged); err != nil {
		r.Fatal(err)
	}
}
