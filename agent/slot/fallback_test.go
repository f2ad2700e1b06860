package slot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"groundswell/agent/disk"
	"groundswell/agent/update"
	"groundswell/internal/devstack/devtest"
)

// rot flips a bit of a slot's artifact, as a bad flash cell does. What runs
// from it goes on running.
func (m *machine) rot(slot string) {
	m.t.Helper()
	path := m.dir.file(slot, "artifact")
	data, err := os.ReadFile(path)
	if err == nil {
		data[len(data)/2] ^= 1
		err = errors.Join(os.Remove(path), os.WriteFile(path, data, 0o700))
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// obstruct makes writing a file of the slots fail, as on a disk that is full or
// read-only; removing still works.
func (m *machine) obstruct(name string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Join(m.dir.path, name, "x"), 0o700); err != nil {
		m.t.Fatal(err)
	}
}

// readOnly is a disk that the kernel mounted so.
type readOnly struct{ disk.FS }

func refuse(op, path string) error { return &os.PathError{Op: op, Path: path, Err: syscall.EROFS} }

func (r readOnly) OpenFile(path string, flag int, mode fs.FileMode) (disk.File, error) {
	if flag != os.O_RDONLY {
		return nil, refuse("open", path)
	}
	return r.FS.OpenFile(path, flag, mode)
}
func (readOnly) MkdirAll(path string, _ fs.FileMode) error { return refuse("mkdir", path) }
func (readOnly) Chmod(path string, _ fs.FileMode) error    { return refuse("chmod", path) }
func (readOnly) Remove(path string) error                  { return refuse("remove", path) }
func (readOnly) Rename(_, to string) error                 { return refuse("rename", to) }
func (readOnly) Link(_, to string) error                   { return refuse("link", to) }
func (readOnly) Symlink(_, path string) error              { return refuse("symlink", path) }

// remount has the slots on another disk, which is the same.
func (m *machine) remount(on disk.FS) {
	m.dir.mu.Lock()
	defer m.dir.mu.Unlock()
	m.dir.on = on
}

func (m *machine) runs(version string) {
	m.t.Helper()
	devtest.Eventually(m.t, 0, version+" to run", func() error {
		if r := m.s.Running(); r.Image.Version != version || r.Up != (version != "") {
			return errors.New("running: " + r.Image.Version)
		}
		return nil
	})
}

func TestNothingIsSaidToRunThatCannotBeLaunched(t *testing.T) {
	m := newMachine(t)
	m.on()
	m.answers("1.0.0")
	m.rot("a")
	m.s.ask()
	m.runs("")
	// Nothing is left to lose: a new version is let in.
	m.try("1.1.0", "healthy")
	m.answers("1.1.0")
	if err := m.s.Confirm(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
}

func TestNoTrialWithoutAFallbackThatBoots(t *testing.T) {
	for name, damage := range map[string]func(m *machine) error{
		"artifact":      func(m *machine) error { m.rot("a"); return nil },
		"image":         func(m *machine) error { return os.WriteFile(m.dir.file("a", "image.json"), []byte("{"), 0o600) },
		"not confirmed": func(m *machine) error { return m.dir.writeJSON(m.dir.file("a", "image.json"), Image{}) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.on()
			m.answers("1.0.0")
			m.stage("1.1.0", "crash")
			if err := damage(m); err != nil {
				t.Fatal(err)
			}
			if err := m.s.Activate(t.Context()); !errors.Is(err, ErrNoFallback) {
				t.Fatalf("activated: %v", err)
			}
			if m.s.Armed() {
				t.Error("a trial is armed")
			}
			m.answers("1.0.0")
		})
	}
}

func TestFullDiskKeepsTheActiveVersionRunning(t *testing.T) {
	m := newMachine(t)
	m.on()
	m.stage("1.1.0", "crash")
	if err := m.dir.Arm(3); err != nil {
		t.Fatal(err)
	}
	m.obstruct("trial.json.new")
	if err := m.s.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.answers("1.0.0")
	if got := m.s.Trial("b"); got != update.FellBack {
		t.Errorf("trial: %v", got)
	}
	m.on()
	m.answers("1.0.0")
	if err := m.s.FallBack(t.Context()); err != nil { // needs no space
		t.Fatal(err)
	}
	if m.s.Armed() {
		t.Error("the trial is not over")
	}
}

// A disk that fails is mounted read-only by the kernel, in the middle of a trial.
func TestReadOnlyDiskDoesNotKeepASickVersionRunning(t *testing.T) {
	m := newMachine(t)
	m.on()
	m.try("1.1.0", "sick")
	m.runs("1.1.0")
	m.remount(readOnly{disk.OS})
	for range 2 {
		if err := m.s.FallBack(t.Context()); !errors.Is(err, syscall.EROFS) {
			t.Fatalf("fell back for good: %v", err)
		}
		m.answers("1.0.0")
	}
	m.s.ask() // as after a crash
	m.answers("1.0.0")

	m.remount(disk.OS)
	m.s.ask()
	m.answers("1.0.0") // though the trial has a try left
	if err := m.s.FallBack(t.Context()); err != nil || m.s.Armed() {
		t.Fatalf("on a disk that was mended: %v, armed %v", err, m.s.Armed())
	}
	m.try("1.2.0", "healthy")
	m.answers("1.2.0") // the next trial is one
}

func TestReadOnlyDiskWithNothingToFallBackTo(t *testing.T) {
	m := newMachine(t)
	m.on()
	m.try("1.1.0", "healthy")
	m.answers("1.1.0")
	m.rot("a")
	m.remount(readOnly{disk.OS})
	boot := m.s.Running().BootID
	if err := m.s.FallBack(t.Context()); !errors.Is(err, syscall.EROFS) {
		t.Errorf("got %v", err)
	}
	if r := m.s.Running(); r.BootID != boot || !r.Up {
		t.Errorf("what runs was ended for nothing: %+v", r)
	}
}

func TestNothingToRemoveNeedsNoWriting(t *testing.T) {
	m := newMachine(t)
	m.on()
	m.remount(readOnly{disk.OS})
	if err := m.s.FallBack(t.Context()); err != nil {
		t.Errorf("nothing is on trial: %v", err)
	}
	if err := m.s.Discard(); err != nil {
		t.Errorf("nothing was downloaded: %v", err)
	}
	m.remount(disk.OS)
}

func TestGoodSlotBootsAndIsKeptWhereTheLinkCannotBeWritten(t *testing.T) {
	m := newMachine(t)
	m.on()
	m.try("1.1.0", "healthy")
	if err := m.s.Confirm(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	m.rot("b")
	m.obstruct(".active")
	for range 2 {
		m.on()
		m.answers("1.0.0")
		if m.dir.Idle() != "b" {
			t.Fatal("the next version would go over the one that runs")
		}
	}
	// The link is what a boot after a power cut goes by.
	m.stage("1.2.0", "healthy")
	if err := m.s.Activate(t.Context()); !errors.Is(err, ErrNoFallback) {
		t.Fatalf("activated: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(m.dir.path, ".active")); err != nil {
		t.Fatal(err)
	}
	if err := m.s.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.answers("1.2.0")
}

func TestConfirmingWhatWasGivenUpIsRefused(t *testing.T) {
	m := newMachine(t)
	m.stage("1.1.0", "healthy")
	if err := m.dir.Arm(1); err != nil {
		t.Fatal(err)
	}
	if slot, _, onTrial, err := m.dir.Boot(); slot != "b" || !onTrial || err != nil {
		t.Fatalf("booted %s, %v, %v", slot, onTrial, err)
	}
	if slot, _, _, err := m.dir.Boot(); slot != "a" || err != nil {
		t.Fatalf("booted %s, %v", slot, err)
	}
	if err := m.dir.Confirm("b"); !errors.Is(err, ErrGivenUp) {
		t.Fatalf("confirmed: %v", err)
	}
	if slot, image, _ := m.dir.Active(); slot != "a" || image.Version != "1.0.0" {
		t.Errorf("active is %s, %+v", slot, image)
	}
	if image, err := m.dir.image("b"); err != nil || image.Good {
		t.Errorf("what was given up: %+v, %v", image, err)
	}
}

func TestFallBackEndsAlsoWhereTheFallbackIsDamaged(t *testing.T) {
	m := newMachine(t)
	m.on()
	m.try("1.1.0", "healthy")
	m.answers("1.1.0")
	if err := os.WriteFile(m.dir.file("a", "image.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.s.FallBack(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m.s.Armed() {
			t.Fatal("the trial is not over")
		}
	}
	m.runs("")
	if _, err := m.dir.bootable("b"); err != nil {
		t.Errorf("the only image that is left was taken away: %v", err)
	}
}

func TestNewImageInTheSlotEndsTheTrialOfTheOneBefore(t *testing.T) {
	m := newMachine(t)
	m.stage("1.1.0", "crash")
	if err := m.dir.Arm(1); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, _, _, err := m.dir.Boot(); err != nil {
			t.Fatal(err)
		}
	}
	image := m.stage("1.2.0", "healthy")
	if err := m.dir.Arm(3); err != nil {
		t.Fatal(err)
	}
	if slot, booted, onTrial, err := m.dir.Boot(); slot != "b" || booted != image || !onTrial || err != nil {
		t.Errorf("booted %s %+v, %v, %v", slot, booted, onTrial, err)
	}
}
