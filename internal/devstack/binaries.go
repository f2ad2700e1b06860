package devstack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// Bins are the paths of the project's programs.
type Bins struct {
	Broker, Fleetd, Agent, Fleetctl string
}

var (
	binariesOnce sync.Mutex // guards binaries
	binaries     *Bins
)

// Binaries builds the project's programs into .cache/stack (at most once per
// process; Go's build cache makes the rest cheap) and returns their paths.
func Binaries(ctx context.Context) (Bins, error) {
	binariesOnce.Lock()
	defer binariesOnce.Unlock()
	if binaries != nil {
		return *binaries, nil
	}
	root, err := Root()
	if err != nil {
		return Bins{}, err
	}
	dir := filepath.Join(root, ".cache", "stack")
	if err := GoBuild(ctx, root, dir, "./broker", "./fleetd", "./agent", "./fleetd/fleetctl"); err != nil {
		return Bins{}, err
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	binaries = &Bins{at("broker"), at("fleetd"), at("agent"), at("fleetctl")}
	return *binaries, nil
}

// GoBuild builds main packages into dir. Several processes may do so at once:
// a lock file makes them take turns, and go replaces a program that runs by
// renaming over it.
func GoBuild(ctx context.Context, root, dir string, packages ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("build: %w", err)
	}
	defer lock.Close() // also unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("build: lock: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", dir + string(filepath.Separator)}, packages...)...)
	cmd.Dir = root
	// Static programs, as they are shipped; GOFLAGS of a test run do not apply.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(packages, " "), err, out)
	}
	return nil
}
