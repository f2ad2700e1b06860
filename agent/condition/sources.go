package condition

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"groundswell/agent/child"
)

// seize takes the lock, until release is called; held: somebody else has it.
func seize(path string) (release func(), detail string, held bool) {
	release = func() {}
	if path == "" {
		return release, "", false
	}
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return release, err.Error(), true
	}
	release = func() { _ = file.Close() } // and with it goes the lock
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return release, "", false
	}
	release()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return func() {}, "an application holds " + path, true
	}
	return func() {}, fmt.Sprintf("%s: %v", path, err), true
}

const powerSupply = "/sys/class/power_supply"

// low reports whether there is too little charge. The kernel's files are described in
// its Documentation/ABI/testing/sysfs-class-power.
func (b *Battery) low() (detail string, low bool) {
	if b.MinPercent == 0 && b.External != ExternalNeeded {
		return "", false
	}
	dir := b.Dir
	if dir == "" {
		dir = powerSupply
	}
	supplies, err := os.ReadDir(dir)
	if err != nil {
		return err.Error(), true
	}
	external, batteries, least := false, 0, 100
	for _, entry := range supplies {
		supply := filepath.Join(dir, entry.Name())
		read := func(name string) string {
			file, err := os.Open(filepath.Join(supply, name))
			if err != nil {
				return ""
			}
			defer file.Close()
			data, _ := io.ReadAll(io.LimitReader(file, 256)) // what cannot be read is as if it were not there
			return strings.TrimSpace(string(data))
		}
		switch read("type") {
		case "Battery":
			if read("scope") == "Device" {
				continue // that of a mouse
			}
			if read("present") == "0" {
				continue // the place for one: its gauge says nothing of charge, or 0
			}
			batteries++
			percent, err := strconv.Atoi(read("capacity"))
			if err != nil {
				return filepath.Base(supply) + " does not say how much it holds", true
			}
			least = min(least, percent)
		case "":
			return filepath.Base(supply) + " does not say what it is", true
		default: // Mains, USB, Wireless
			external = external || read("online") == "1"
		}
	}
	switch {
	case batteries == 0:
		return "", false
	case external && b.External == ExternalEnough:
		return "", false
	case !external && b.External == ExternalNeeded:
		return fmt.Sprintf("%d %%, and no external power", least), true
	case least < b.MinPercent:
		return fmt.Sprintf("%d %%, at least %d %% are wanted", least, b.MinPercent), true
	}
	return "", false
}

const (
	exitLater = 21          // as with modules
	askTime   = time.Minute // for a fact's command
	maxWhy    = 200         // bytes of what it prints
)

// Ask reports whether a fact holds, and why not.
func (f *Fact) Ask(ctx context.Context) (detail string, holds bool) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.Command[0], f.Command[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out := child.Head{Max: maxWhy}
	cmd.Stdout = &out
	err := child.Run(cmd)
	if err == nil {
		return "", true
	}
	var exit *exec.ExitError
	if ctx.Err() == nil && errors.As(err, &exit) && exit.ExitCode() == exitLater {
		line, _, _ := strings.Cut(out.String(), "\n")
		return strings.ToValidUTF8(strings.TrimSpace(line), "?"), false
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Sprintf("%s: %v", filepath.Base(f.Command[0]), err), false
}
