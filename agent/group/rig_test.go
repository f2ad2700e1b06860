package group

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"groundswell/agent/boot"
	"groundswell/agent/deploy"
	"groundswell/agent/machine"
	"groundswell/agent/module"
	"groundswell/agent/slot"
	"groundswell/agent/slot/slottest"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics/pack"
)

// kind is what a member of the tests' groups is: real slots of one kind.
type kind interface {
	// bytes are those of a version.
	bytes(version string) []byte
	// open opens the slots as at a start of the agent; what the last life has left is
	// gone.
	open() Slots
	// settled waits until what the member does at its start is done.
	settled(Slots)
	// damage changes something in the middle of what is staged.
	damage()
}

// device is a device whose component is a group.
type device struct {
	*testing.T
	dir   string
	names []string
	kinds []kind
	at    func(point string)
	group *Group
	off   func()
	reset func() // set while somebody waits for a restart
}

// newDevice is one with members of those kinds: "process", "module" (whose commit can be
// taken back), "final" (whose cannot), or "machine".
func newDevice(t *testing.T, kinds ...string) *device {
	t.Helper()
	d := &device{T: t, dir: t.TempDir(), off: func() {}, at: func(string) {}}
	restarts := kinds[len(kinds)-1] == "machine"
	tries := slottest.Tries
	if restarts {
		tries++ // the first boot of the machine is the second of the others
	}
	for i, k := range kinds {
		name := fmt.Sprintf("%s-%d", k, i)
		path := filepath.Join(d.dir, name)
		if err := os.MkdirAll(filepath.Join(path, "data"), 0o700); err != nil {
			t.Fatal(err)
		}
		d.names = append(d.names, name)
		switch k {
		case "process":
			d.kinds = append(d.kinds, newProcess(t, path, tries))
		case "machine":
			d.kinds = append(d.kinds, newMachine(t, path, func() { d.reset() }))
		default:
			d.kinds = append(d.kinds, newModule(t, path, tries, k == "final"))
		}
	}
	t.Cleanup(func() { d.off() })
	return d
}

// Boot ends everything at once, as a reset does, and starts the agent.
func (d *device) Boot() deploy.Slots {
	d.Helper()
	d.off()
	var members []Member
	for i, k := range d.kinds {
		members = append(members, Member{d.names[i], k.open()})
	}
	g, err := Open(Config{Members: members, Dir: filepath.Join(d.dir, "group"), Version: "1.0.0", At: func(point string) { d.at(point) }})
	if err != nil {
		d.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	d.off = func() {
		cancel()
		<-done
		d.off = func() {}
	}
	if err := g.Ready(d.Context()); err != nil {
		d.Fatal(err)
	}
	for i, m := range members {
		d.kinds[i].settled(m.Slots)
	}
	d.group = g
	return g
}

func (d *device) Do(do func(ctx context.Context) error) (deploy.Slots, error) {
	d.Helper()
	ctx, cancel := context.WithCancel(d.Context())
	defer cancel()
	restarted := false
	d.reset = func() {
		restarted = true
		cancel()
	}
	if err := do(ctx); !restarted {
		return d.group, err
	}
	return d.Boot(), nil
}

func (d *device) Bytes(version string) []byte {
	d.Helper()
	var list []pack.Member
	contents := map[string][]byte{}
	for i, k := range d.kinds {
		data := k.bytes(version)
		image := slottest.Image(version, data)
		list = append(list, pack.Member{Name: d.names[i], Version: version, SHA256: image.SHA256, Length: image.Length})
		contents[d.names[i]] = data
	}
	return packed(d.T, list, contents)
}

func packed(t *testing.T, list []pack.Member, contents map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := pack.Write(&out, list, func(m pack.Member) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(contents[m.Name])), nil
	}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (d *device) Damage(string) { d.kinds[len(d.kinds)-1].damage() }

// process is a process that is supervised.
type process struct {
	*testing.T
	path  string
	tries int
}

func newProcess(t *testing.T, path string, tries int) *process {
	t.Helper()
	p := &process{t, filepath.Join(path, "slots"), tries}
	dir, err := slot.OpenDir(p.path)
	if err == nil {
		first := filepath.Join(path, "first")
		err = os.WriteFile(first, p.bytes("1.0.0"), 0o600)
		if err == nil {
			err = dir.Provision(first, "1.0.0")
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *process) bytes(version string) []byte {
	return []byte("#!/bin/sh\n# version " + version + strings.Repeat(" ", 5000) + "\nexec sleep 1000\n")
}

func (p *process) open() Slots {
	dir, err := slot.OpenDir(p.path)
	if err != nil {
		p.Fatal(err)
	}
	return slot.New(dir, slot.Config{Addr: "127.0.0.1:0", Tries: p.tries, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond})
}

func (p *process) settled(Slots) {}

func (p *process) damage() { flip(p.T, filepath.Join(p.path, "b", "artifact")) }

func flip(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o700); err != nil {
		t.Fatal(err)
	}
}

// peripheral is something that a module updates: a file, and what it holds runs.
type peripheral struct {
	*testing.T
	path  string
	tries int
}

var steps = map[string]string{
	"install":  `cp "$MODULE_ARTIFACT" "$DEVICE/new.part" && mv "$DEVICE/new.part" "$DEVICE/new"`,
	"activate": `[ -e "$DEVICE/was-$MODULE_FROM" ] || cp "$DEVICE/runs" "$DEVICE/was-$MODULE_FROM"; cp "$DEVICE/new" "$DEVICE/runs.part" && mv "$DEVICE/runs.part" "$DEVICE/runs"`,
	"rollback": `[ ! -e "$DEVICE/was-$MODULE_FROM" ] || cp "$DEVICE/was-$MODULE_FROM" "$DEVICE/runs.part" && mv "$DEVICE/runs.part" "$DEVICE/runs"`,
	"version":  `sed -n 's/^version=//p' "$DEVICE/runs"`,
}

func newModule(t *testing.T, path string, tries int, final bool) *peripheral {
	t.Helper()
	p := &peripheral{t, path, tries}
	scripts := map[string]string{"commit": `rm -f "$DEVICE"/was-*`}
	if !final {
		delete(scripts, "commit")
	}
	for step, script := range steps {
		scripts[step] = script
	}
	if err := os.Mkdir(filepath.Join(path, "scripts"), 0o700); err != nil {
		t.Fatal(err)
	}
	for step, script := range scripts {
		text := fmt.Sprintf("#!/bin/sh\nset -e\nDEVICE=%s\n%s\n", path, script)
		if err := devtest.WriteProgram(filepath.Join(path, "scripts", step), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(path, "runs"), p.bytes("1.0.0"), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *peripheral) bytes(version string) []byte {
	return []byte("version=" + version + "\n" + strings.Repeat("x", 5000))
}

func (p *peripheral) open() Slots {
	m, err := module.Open(module.Config{
		Scripts: filepath.Join(p.path, "scripts"), Dir: filepath.Join(p.path, "data"), Tries: p.tries,
		Again: time.Millisecond, Interval: time.Millisecond,
	})
	if err != nil {
		p.Fatal(err)
	}
	return m
}

// settled: a Confirm of nothing waits for the steps of the start.
func (p *peripheral) settled(s Slots) { _ = s.Confirm(p.Context(), "") }

func (p *peripheral) damage() { flip(p.T, filepath.Join(p.path, "data", "artifact")) }

// whole is the machine itself: two partitions that are files, and GRUB's real script, run
// by a shell, on an environment that GRUB's real tool writes.
type whole struct {
	*testing.T
	path   string
	reset  func()
	boots  int
	loader string
}

const magic = "BOOT" // without it, nothing can be loaded

// setLine is how GRUB assigns; a shell does without the word.
var setLine = regexp.MustCompile(`\bset ([a-z_]+=)`)

func newMachine(t *testing.T, path string, reset func()) *whole {
	t.Helper()
	w := &whole{T: t, path: path, reset: reset}
	const partition = 1 << 20
	first := append(w.bytes("1.0.0"), make([]byte, partition)...)[:partition]
	for name, data := range map[string][]byte{"a": first, "b": make([]byte, partition)} {
		if err := os.WriteFile(filepath.Join(path, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	block := filepath.Join(path, "grubenv")
	if out, err := exec.Command("grub-editenv", block, "create").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	w.loader = fmt.Sprintf(`
		load_env() { eval "$(grub-editenv %[1]s list 2>/dev/null | sed -n "s/^\(groundswell_[a-z]*\)=\(.*\)/\1='\2'/p")"; }
		save_env() { grub-editenv %[1]s set "$1=$(eval echo "\$$1")"; }
		`, block) + setLine.ReplaceAllString(boot.ScriptGRUB, "$1") + "\necho $default $fallback | tr 01 ab\n"
	return w
}

func (w *whole) bytes(version string) []byte {
	return fmt.Appendf(nil, "%s version=%s\n%s", magic, version, strings.Repeat("system ", 20000))
}

var versionLine = regexp.MustCompile(`^BOOT version=(\S+)\n`)

func (w *whole) open() Slots {
	out, err := exec.Command("/bin/sh", "-c", w.loader).CombinedOutput()
	order := strings.Fields(string(out))
	if err != nil || len(order) != 2 {
		w.Fatalf("boot script: %v %q", err, out)
	}
	for _, name := range order {
		data, err := os.ReadFile(filepath.Join(w.path, name))
		if err != nil {
			w.Fatal(err)
		}
		version := versionLine.FindSubmatch(data)
		if version == nil {
			continue
		}
		w.boots++
		m, err := machine.Open(w.Context(), machine.Config{
			Partitions: map[string]string{"a": filepath.Join(w.path, "a"), "b": filepath.Join(w.path, "b")}, Dir: filepath.Join(w.path, "data"),
			Chain: boot.GRUB{Path: filepath.Join(w.path, "grubenv")}, Running: name, BootID: fmt.Sprint("boot-", w.boots), Tries: slottest.Tries,
			Version: func() string { return string(version[1]) },
			Restart: func(context.Context) error { w.reset(); return nil },
		})
		if err == nil {
			err = m.Adopt(w.Context())
		}
		if err != nil {
			w.Fatal(err)
		}
		return m
	}
	w.Fatalf("neither of %v can be loaded: the device is bricked", order)
	return nil
}

func (w *whole) settled(Slots) {}

func (w *whole) damage() { flip(w.T, filepath.Join(w.path, "b")) }
