package boottest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"groundswell/internal/devstack"
	"groundswell/internal/qemu"
)

// Machine is a device.
type Machine struct {
	dir, name string
	process   *devstack.Process
	mark      int // of the console, what was said before is not heard
}

// MakeMachine makes the machine with its disk; it is off. system is the image in slot
// A; what is in the directory data is put into DataDir.
func MakeMachine(ctx context.Context, dir, name, system, data string) (*Machine, error) {
	m := &Machine{dir: dir, name: name}
	return m, makeDisk(ctx, m.path("disk"), system, data)
}

func (m *Machine) path(what string) string { return filepath.Join(m.dir, m.name+"."+what) }

// Start switches the machine on. drive is added to what QEMU is told about the disk.
func (m *Machine) Start(ctx context.Context, drive string) error {
	path, args, err := qemu.Command(qemu.Options{MemoryBytes: 256 * mib, Disk: m.path("disk"), Drive: drive})
	if err != nil {
		return err
	}
	m.process, err = devstack.Start(ctx, devstack.Spec{Name: m.name, Path: path, Args: args, LogFile: m.path("console")})
	return err
}

// Cut takes the power away.
func (m *Machine) Cut() {
	if m.process != nil {
		m.process.Kill()
	}
}

// Listen forgets what the console has said.
func (m *Machine) Listen() error {
	text, err := m.console()
	m.mark = len(text)
	return err
}

func (m *Machine) console() (string, error) {
	text, err := os.ReadFile(m.path("console"))
	if os.IsNotExist(err) {
		err = nil // it was never on
	}
	return string(text), err
}

// Said is nil when the console has said text since Listen.
func (m *Machine) Said(text string) error {
	select {
	case <-m.process.Done():
		return fmt.Errorf("the machine is off; it said:\n%s", m.process.LogTail(20))
	default:
	}
	said, err := m.console()
	if err != nil {
		return err
	}
	if !strings.Contains(said[m.mark:], text) {
		return fmt.Errorf("the console has not said %q", text)
	}
	return nil
}

// bootLine is what the initramfs of every system says.
var bootLine = regexp.MustCompile(`userland: slot ([ab]), version (\S+)\s`)

// Boots are the kernels that were booted since Listen, as "slot version".
func (m *Machine) Boots() (boots []string, err error) {
	said, err := m.console()
	for _, found := range bootLine.FindAllStringSubmatch(said[m.mark:], -1) {
		boots = append(boots, found[1]+" "+found[2])
	}
	return boots, err
}

// Tail is the end of what the console said.
func (m *Machine) Tail() string {
	if m.process == nil {
		return ""
	}
	return m.process.LogTail(80)
}

// SlotB is the beginning of partition B and something from its middle.
func (m *Machine) SlotB() (head, middle []byte, err error) {
	disk, err := os.Open(m.path("disk"))
	if err != nil {
		return nil, nil, err
	}
	defer disk.Close()
	head, middle = make([]byte, 4096), make([]byte, 4*mib)
	if _, err := disk.ReadAt(head, slotB); err != nil {
		return nil, nil, err
	}
	_, err = disk.ReadAt(middle, slotB+2*mib)
	return head, middle, err
}

// WipeB makes slot B something that cannot be loaded. The machine must be off.
func (m *Machine) WipeB() error {
	disk, err := os.OpenFile(m.path("disk"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = disk.WriteAt(make([]byte, mib), slotB)
	return errors.Join(err, disk.Close())
}
