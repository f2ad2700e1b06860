package rauc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"
)

// files are partitions that are files; disks are block devices.
func files(t *testing.T) map[string]string {
	t.Helper()
	partitions := map[string]string{}
	for _, name := range []string{"a", "b"} {
		partitions[name] = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(partitions[name], make([]byte, partition), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return partitions
}

func disks(t *testing.T) map[string]string {
	t.Helper()
	partitions := files(t)
	for name, path := range partitions {
		loop, err := loopDevice(path)
		if err != nil {
			t.Fatalf("loop device: %v; %s", err, needs)
		}
		partitions[name] = loop.Name()
		t.Cleanup(func() { loop.Close() })
	}
	return partitions
}

// loopDevice is a block device with the bytes of a file. It is gone when it is closed,
// however its process ends.
func loopDevice(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		loop, err := os.OpenFile(fmt.Sprint("/dev/loop", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) { // else somebody was faster
			return nil, err
		}
	}
}

// setLine is how GRUB assigns; a shell does without the word.
var setLine = regexp.MustCompile(`\bset ([a-zA-Z_]+=)`)

// grub is a device whose partitions are block devices.
func grub(t *testing.T) *device {
	t.Helper()
	d := fresh(t, disks(t), "")
	block := d.path("grubenv")
	d.settings += "bootloader=grub\ngrubenv=" + block
	d.loader = fmt.Sprintf(`
		load_env() { eval "$(grub-editenv %[1]s list | sed -n "s/^\(ORDER\|[ab]_[A-Z]*\)=\(.*\)/\1='\2'/p")"; }
		save_env() { grub-editenv %[1]s set a_TRY="$a_TRY" b_TRY="$b_TRY"; }
		`, block) + setLine.ReplaceAllString(ScriptGRUB, "$1") + "\necho $default $fallback | tr 01 ab\n"
	d.run("grub-editenv", block, "create")
	d.run("grub-editenv", block, "set", "ORDER=a b", "a_OK=1", "a_TRY=0", "b_OK=0", "b_TRY=0")
	return d
}

// uboot is a device whose partitions are files.
func uboot(t *testing.T) *device {
	t.Helper()
	d := fresh(t, files(t), "bootloader=uboot")
	var lines string
	for i, name := range []string{"env-0", "env-1"} {
		lines += fmt.Sprintf("%s 0x0 0x4000\n", d.path(name))
		d.write(name, string(environment(byte(i), "BOOT_ORDER=a\x00BOOT_a_LEFT=3\x00BOOT_b_LEFT=0")))
	}
	d.write("fw_env.config", lines)
	// RAUC has them read /etc/fw_env.config.
	for _, tool := range []string{"fw_printenv", "fw_setenv"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Fatalf("%v; %s", err, needs)
		}
		d.write(tool, fmt.Sprintf("#!/bin/sh\nexec %s -c %s \"$@\"\n", path, d.path("fw_env.config")))
		if err := os.Chmod(d.path(tool), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	d.loader = fmt.Sprintf(`
		setenv() { name="$1"; shift; eval "$name=\"\$*\""; }
		saveenv() { for name in BOOT_ORDER BOOT_a_LEFT BOOT_b_LEFT; do %[1]s/fw_setenv $name "$(eval echo "\$$name")" || return 1; done; }
		eval "$(%[1]s/fw_printenv | sed -n "s/^\(BOOT_[A-Za-z_]*\)=\(.*\)/\1='\2'/p")"
		`, d.dir) + ScriptUBoot + "\necho $rauc_slot $rauc_other\n"
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
