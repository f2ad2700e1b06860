package machine

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"groundswell/agent/boot"
	"groundswell/agent/boot/shell"
	"groundswell/agent/deploy"
	"groundswell/agent/slot/slottest"
)

// device has two partitions that are files, and a bootloader that is the real script,
// run by a shell, on an environment that the bootloader's real tools read and write.
type device struct {
	*testing.T
	dir     string
	chain   boot.Chain
	loader  string // the script; it prints the slot, and the one to take if that cannot be loaded
	boots   int
	machine *Machine
	reset   func() // set while somebody waits for a restart
}

const (
	partition = 8 << 20
	magic     = "BOOT" // without it, nothing can be loaded
)

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

// Boot does what the firmware and the bootloader do.
func (d *device) Boot() deploy.Slots {
	d.Helper()
	out, err := exec.Command("/bin/sh", "-c", d.loader).CombinedOutput()
	if err != nil {
		d.Fatalf("boot script: %v\n%s", err, out)
	}
	order := strings.Fields(string(out))
	if len(order) != 2 {
		d.Fatalf("boot script: %q", out)
	}
	for _, name := range order {
		if data := d.read(name); bytes.HasPrefix(data, []byte(magic)) {
			return d.start(name)
		}
	}
	d.Fatalf("neither of %v can be loaded: the device is bricked", order)
	return nil
}

func (d *device) read(name string) []byte {
	d.Helper()
	data, err := os.ReadFile(d.path(name))
	if err != nil {
		d.Fatal(err)
	}
	return data
}

func (d *device) start(name string) deploy.Slots {
	d.Helper()
	d.boots++
	m, err := Open(d.Context(), Config{
		Partitions: map[string]string{"a": d.path("a"), "b": d.path("b")}, Dir: d.path("data"), Chain: d.chain,
		Running: name, BootID: fmt.Sprint("boot-", d.boots), Tries: slottest.Tries,
		Version: func() string { return versionOf(d.read(name)) },
		Restart: func(context.Context) error { d.reset(); return nil },
	})
	if err == nil {
		err = m.Adopt(d.Context())
	}
	if err != nil {
		d.Fatal(err)
	}
	d.machine = m
	return m
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
		return d.machine, err
	}
	return d.Boot(), nil
}

var versionLine = regexp.MustCompile(`^BOOT version=(\S+)\n`)

func versionOf(data []byte) string {
	if m := versionLine.FindSubmatch(data); m != nil {
		return string(m[1])
	}
	return ""
}

func (d *device) Bytes(version string) []byte { return system(version) }

// system is a version: longer than what is written last, and not a multiple of it.
func system(version string) []byte {
	data := fmt.Appendf(nil, "%s version=%s\n", magic, version)
	random := rand.NewChaCha8([32]byte{byte(len(version)), version[2]})
	body := make([]byte, 3<<20+12345)
	_, _ = random.Read(body) // never fails
	return append(data, body...)
}

func (d *device) Damage(name string) {
	data := d.read(name)
	data[2<<20] ^= 1
	if err := os.WriteFile(d.path(name), data, 0o600); err != nil {
		d.Fatal(err)
	}
}

func fresh(t *testing.T) *device {
	t.Helper()
	d := &device{T: t, dir: t.TempDir()}
	if err := os.Mkdir(d.path("data"), 0o700); err != nil {
		t.Fatal(err)
	}
	first := append(system("1.0.0"), make([]byte, partition)...)[:partition]
	for name, data := range map[string][]byte{"a": first, "b": make([]byte, partition)} {
		if err := os.WriteFile(d.path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func grub(t *testing.T) *device {
	d := fresh(t)
	block := d.path("grubenv")
	d.chain = boot.GRUB{Path: block}
	d.loader = shell.GRUB(block)
	if out, err := exec.Command("grub-editenv", block, "create").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := exec.Command("grub-editenv", block, "set", "saved_entry=two words").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	t.Cleanup(func() {
		out, err := exec.Command("grub-editenv", block, "list").Output()
		if err != nil || !strings.Contains(string(out), "saved_entry=two words\n") {
			t.Errorf("what else was in the block is gone: %q, %v", out, err)
		}
	})
	return d
}

func uboot(t *testing.T) *device {
	d := fresh(t)
	config := d.path("fw_env.config")
	var lines string
	for i, name := range []string{"env-0", "env-1"} {
		lines += fmt.Sprintf("%s 0x0 0x4000\n", d.path(name))
		if err := os.WriteFile(d.path(name), environment(byte(i), "bootdelay=0"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(config, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	d.chain = boot.UBoot{Config: config}
	d.loader = shell.UBoot(config)
	t.Cleanup(func() {
		out, err := exec.Command("fw_printenv", "-c", config, "bootdelay").Output()
		if err != nil || string(out) != "bootdelay=0\n" {
			t.Errorf("what else was in the environment is gone: %q, %v", out, err)
		}
	})
	return d
}

// environment is one copy as U-Boot writes it: CRC-32 of the data, a flag that counts,
// and the data.
func environment(flag byte, variables string) []byte {
	data := make([]byte, 0x4000)
	copy(data[5:], variables)
	binary.LittleEndian.PutUint32(data, crc32.ChecksumIEEE(data[5:]))
	data[4] = flag
	return data
}

// staged is a device behind GRUB with 1.0.0 running and 1.1.0 staged; tried is one with
// that on trial.
func staged(t *testing.T) *device {
	t.Helper()
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
	return d
}

func tried(t *testing.T) *device {
	t.Helper()
	d := staged(t)
	if _, err := d.Do(d.machine.Activate); err != nil {
		t.Fatal(err)
	}
	return d
}

// put has a device download and stage a version.
func (d *device) put(version string) error {
	data := system(version)
	image := slottest.Image(version, data)
	path, err := d.machine.Staging(image.SHA256)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		d.Fatal(err)
	}
	_, err = d.machine.Stage(image)
	return err
}
