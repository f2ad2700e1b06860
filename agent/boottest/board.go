package boottest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"groundswell/internal/qemu"
)

// Board is a machine of which only the bootloader runs: it chooses a slot by a script
// from its disk, says which, and resets.
type Board struct {
	dir     string
	options []string // for QEMU
}

func (b *Board) disk() string { return filepath.Join(b.dir, "disk") }

// say has a script say what is in variables.
func say(variables []string) string {
	var values []string
	for _, name := range variables {
		values = append(values, "<${"+name+"}>")
	}
	return `echo "chosen: ` + strings.Join(values, " ") + `"`
}

var chosenLine = regexp.MustCompile(`chosen: (<.*>)`)

// boardTime is what a boot may take on a machine that does a dozen other things.
const boardTime = 2 * time.Minute

// Boot switches the board on, and returns what its script has set.
func (b *Board) Boot(ctx context.Context) (chosen string, err error) {
	ctx, cancel := context.WithTimeout(ctx, boardTime)
	defer cancel()
	path, args, err := qemu.Command(qemu.Options{MemoryBytes: 256 * mib, Disk: b.disk(), Emulate: true})
	if err != nil {
		return "", err
	}
	said, err := exec.CommandContext(ctx, path, append(append(args, b.options...), "-no-reboot")...).CombinedOutput()
	found := chosenLine.FindSubmatch(said)
	if err == nil && found == nil {
		err = errors.New("it has chosen nothing")
	}
	if err != nil {
		return "", fmt.Errorf("board: %w\n%s", err, said)
	}
	return string(found[1]), nil
}

// MakeGRUB makes a board with Debian's GRUB, which runs script, and says what is in the
// variables said. environment is what there is at first, each name=value.
func MakeGRUB(ctx context.Context, dir, script string, environment []string, said ...string) (*Board, error) {
	b := &Board{dir: dir}
	disk, err := os.Create(b.disk())
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	if err := disk.Truncate(diskBytes); err != nil {
		return nil, err
	}
	if err := writeGRUB(ctx, disk, dir, "reboot"); err != nil {
		return nil, err
	}
	config := "serial --unit=0 --speed=115200\nterminal_output serial\nsource ${prefix}/script.cfg\n" + say(said) + "\nreboot\n"
	if err := writeBoot(ctx, disk, dir, map[string]string{"grub.cfg": config, "script.cfg": script}, environment...); err != nil {
		return nil, err
	}
	return b, disk.Close()
}
