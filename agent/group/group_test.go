package group

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"groundswell/agent/slot"
	"groundswell/agent/slot/slottest"
	"groundswell/agent/update"
	"groundswell/topics/pack"
)

// put downloads bytes, as of a version, and stages them.
func (d *device) put(version string, data []byte) (string, error) {
	d.Helper()
	image := slottest.Image(version, data)
	path, err := d.group.Staging(image.SHA256)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		d.Fatal(err)
	}
	return d.group.Stage(image)
}

// try puts a version on trial.
func (d *device) try(version string) {
	d.Helper()
	_, err := d.put(version, d.Bytes(version))
	if err == nil {
		_, err = d.Do(d.group.Activate)
	}
	if err != nil {
		d.Fatal(err)
	}
	d.runs(version, true)
}

// runs wants the group to say that it runs that, "" for no version.
func (d *device) runs(version string, trial bool) {
	d.Helper()
	if r := d.group.Running(); r.Image.Version != version || r.Trial != trial {
		d.Fatalf("runs %+v, want %q, trial %v; members %+v", r, version, trial, d.group.running())
	}
}

func TestAllIsVerifiedBeforeAnythingIsWritten(t *testing.T) {
	d := newDevice(t, "process", "module")
	d.Boot()
	good := d.Bytes("1.1.0")
	damaged := bytes.Clone(good)
	damaged[bytes.LastIndex(damaged, []byte("xxxx"))] ^= 1
	index, err := pack.Read(bytes.NewReader(good), nil)
	if err != nil {
		t.Fatal(err)
	}
	contents := map[string][]byte{}
	for i, k := range d.kinds {
		contents[d.names[i]] = k.bytes("1.1.0")
	}
	first, second := index.Members[0], index.Members[1]
	stranger := second
	stranger.Name = "stranger"
	contents["stranger"] = contents[second.Name]
	for name, data := range map[string][]byte{
		"no pack": []byte("firmware"), "the last member is damaged": damaged,
		"another order":  packed(t, []pack.Member{second, first}, contents),
		"one is missing": packed(t, []pack.Member{first}, contents),
		"one too many":   packed(t, []pack.Member{first, second, stranger}, contents),
		"a stranger":     packed(t, []pack.Member{first, stranger}, contents),
	} {
		if _, err := d.put("1.1.0", data); !errors.Is(err, slot.ErrArtifact) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := d.Do(d.group.Activate); !errors.Is(err, slot.ErrEmpty) {
			t.Errorf("%s: activated: %v", name, err)
		}
		for _, path := range []string{"process-0/slots/b/*", "module-1/data/artifact", "*/data/staging-*"} {
			if files, err := filepath.Glob(filepath.Join(d.dir, path)); err != nil || len(files) > 0 {
				t.Errorf("%s: written: %v, %v", name, files, err)
			}
		}
	}
	d.try("1.1.0")
}

func TestOnlyOneMemberMayBeFinal(t *testing.T) {
	dir := t.TempDir()
	var members []Member
	for _, name := range []string{"mcu", "modem"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		members = append(members, Member{name, newModule(t, path, 3, true).open()})
	}
	if _, err := Open(Config{Members: members, Dir: dir}); err == nil || !strings.Contains(err.Error(), "mcu nor modem") {
		t.Errorf("%v", err)
	}
	if _, err := Open(Config{Dir: dir}); err == nil {
		t.Error("a group of nobody")
	}
}

// TestAMemberThatIsDamagedAfterTheConfirmation: it runs what it ran before, and the
// others follow when the driver asks what became of its update.
func TestAMemberThatIsDamagedAfterTheConfirmation(t *testing.T) {
	d := newDevice(t, "process", "module")
	d.Boot()
	d.try("1.1.0")
	if err := d.group.Confirm(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	d.Boot()
	d.runs("1.1.0", false)
	d.kinds[0].damage()
	d.Boot()
	d.runs("", false)
	if got := d.group.Trial("b"); got != update.FellBack {
		t.Errorf("trial %v", got)
	}
	if err := d.group.Confirm(t.Context(), "b"); !errors.Is(err, slot.ErrGivenUp) {
		t.Errorf("confirm: %v", err)
	}
	for range 2 {
		if _, err := d.Do(d.group.FallBack); err != nil {
			t.Fatal(err)
		}
		d.runs("1.0.0", false)
	}
	d.Boot()
	d.runs("1.0.0", false)
	d.try("1.1.0")
}

// TestAMemberThatCannotGoBack: the others do, no version runs, and the next update has
// its way.
func TestAMemberThatCannotGoBack(t *testing.T) {
	d := newDevice(t, "process", "module")
	d.Boot()
	d.try("1.1.0")
	flip(t, filepath.Join(d.dir, "process-0/slots/a/artifact"))
	if _, err := d.Do(d.group.FallBack); err != nil {
		t.Fatal(err)
	}
	d.runs("", false)
	if r := d.group.running()[1]; r.Image.Version != "1.0.0" || d.group.Armed() {
		t.Errorf("%+v", r)
	}
	d.try("1.2.0")
	if err := d.group.Confirm(t.Context(), d.group.Running().Slot); err != nil {
		t.Fatal(err)
	}
	d.Boot()
	d.runs("1.2.0", false)
}

// TestADiskThatTakesNoWritesKeepsNobodyFromGoingBack: it is an error all the same.
func TestADiskThatTakesNoWritesKeepsNobodyFromGoingBack(t *testing.T) {
	d := newDevice(t, "process", "module")
	d.Boot()
	d.try("1.1.0")
	broken := filepath.Join(d.dir, "group", fileName+".new")
	if err := os.MkdirAll(filepath.Join(broken, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := d.Do(d.group.FallBack); err == nil {
			t.Error("it is written down that it is over")
		}
		d.runs("1.0.0", false)
	}
	if err := os.RemoveAll(broken); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Do(d.group.FallBack); err != nil {
		t.Fatal(err)
	}
	d.Boot()
	d.runs("1.0.0", false)
	if d.group.Armed() {
		t.Error("armed")
	}
}

// TestAGroupThatHasLostItsState: what is on trial is ended; which version runs is not
// known until the next one does.
func TestAGroupThatHasLostItsState(t *testing.T) {
	d := newDevice(t, "process", "module")
	d.Boot()
	d.try("1.1.0")
	for _, name := range []string{fileName, fileName + ".old"} {
		if err := os.WriteFile(filepath.Join(d.dir, "group", name), []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.Boot()
	if !d.group.Armed() {
		t.Fatal("nobody would end the trials of the members")
	}
	if _, err := d.Do(d.group.FallBack); err != nil {
		t.Fatal(err)
	}
	d.runs("", false)
	for i, r := range d.group.running() {
		if r.Image.Version != "1.0.0" || r.Trial {
			t.Errorf("%s: %+v", d.names[i], r)
		}
	}
	d.try("1.2.0")
	if err := d.group.Confirm(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	d.runs("1.2.0", false)
}

// TestTheLastToBeActivatedIsTheFirstToFallBack: and one that falls back in its turn keeps
// those behind it from being activated.
func TestTheLastToBeActivatedIsTheFirstToFallBack(t *testing.T) {
	d := newDevice(t, "module", "module", "process")
	d.Boot()
	d.try("1.1.0")
	var order []string
	d.at = func(point string) {
		if member, ok := strings.CutPrefix(point, "after fall back "); ok {
			order = append(order, member)
		} else if member, ok := strings.CutPrefix(point, "after activate "); ok {
			order = append(order, member)
		}
	}
	if _, err := d.Do(d.group.FallBack); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, " "); got != "process-2 module-1 module-0" {
		t.Errorf("fell back: %s", got)
	}
	order = nil
	if _, err := d.put("1.2.0", d.Bytes("1.2.0")); err != nil {
		t.Fatal(err)
	}
	steps := filepath.Join(d.dir, "module-1/scripts/activate")
	if err := os.WriteFile(steps, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Do(func(ctx context.Context) error { return d.group.Activate(ctx) }); err == nil {
		t.Fatal("activated")
	}
	if got := strings.Join(order, " "); got != "module-0 process-2 module-1 module-0" {
		t.Errorf("activated and fell back: %s", got)
	}
	d.runs("1.0.0", false)
	if got := d.group.Trial("b"); got != update.FellBack {
		t.Errorf("trial %v", got)
	}
}

// TestWhoFallsBackAtOnceKeepsTheRestFromBeingActivated: launching what is damaged is no
// error of the launch.
func TestWhoFallsBackAtOnceKeepsTheRestFromBeingActivated(t *testing.T) {
	d := newDevice(t, "process", "module")
	d.Boot()
	if _, err := d.put("1.1.0", d.Bytes("1.1.0")); err != nil {
		t.Fatal(err)
	}
	d.kinds[0].damage()
	d.at = func(point string) {
		if point == "before activate module-1" {
			t.Error("module-1 is activated")
		}
	}
	if _, err := d.Do(d.group.Activate); err == nil {
		t.Error("activated")
	}
	d.runs("1.0.0", false)
}
