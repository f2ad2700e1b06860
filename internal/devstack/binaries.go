package devstack

import (
	"context"
	_ "embed" // agent.flags
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Bins are the paths of the project's programs.
type Bins struct {
	Broker, Fleetd, Agent, Fleetctl string
}

// AgentFlags are what agents are built with.
var AgentFlags = flags(agentFlags)

//go:embed agent.flags
var agentFlags string

// flags are the lines of a file that are no comments.
func flags(file string) (list []string) {
	for line := range strings.Lines(file) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	return list
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
	if err := GoBuild(ctx, root, dir+string(filepath.Separator), nil, "./broker", "./fleetd", "./fleetd/fleetctl"); err != nil {
		return Bins{}, err
	}
	if err := GoBuild(ctx, root, dir+string(filepath.Separator), AgentFlags, "./agent"); err != nil {
		return Bins{}, err
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	binaries = &Bins{at("broker"), at("fleetd"), at("agent"), at("fleetctl")}
	return *binaries, nil
}

// Program builds one of the project's programs, for instance "./broker", into
// .cache/stack and returns its path.
func Program(ctx context.Context, pkg string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".cache", "stack") + string(filepath.Separator)
	return dir + filepath.Base(pkg), GoBuild(ctx, root, dir, nil, pkg)
}

// GoBuild builds main packages into out, a file or (with a trailing slash) a
// directory. Several processes may do so at once: a lock file makes them take
// turns, and go replaces a program that runs by renaming over it.
func GoBuild(ctx context.Context, root, out string, flags []string, packages ...string) error {
	if err := DependOnSources(root); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	dir := filepath.Dir(out)
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
	args := append([]string{"build", "-o", out}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Dir = root
	// Static programs, as they are shipped; GOFLAGS of a test run do not apply.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(packages, " "), err, text)
	}
	return nil
}

// DependOnSources opens every source file below the repository's root. In a test
// that makes go test know what the result depends on: without it, a test that
// runs the project's programs would be answered from the cache although they
// have changed.
func DependOnSources(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && len(d.Name()) > 2 && d.Name()[0] == '.' || d.IsDir() && d.Name() == "testdata":
			return filepath.SkipDir
		case d.IsDir() || !slices.Contains(sources, filepath.Ext(path)):
			return nil
		}
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil // an editor's file
		}
		if err != nil {
			return err
		}
		return f.Close()
	})
}

var sources = []string{".go", ".mod", ".sum", ".sql", ".html", ".css", ".js", ".yaml"}

// Firmware builds the demo's camera in a version and returns the program's
// path. One that is not healthy starts, and then fails its health check.
func Firmware(ctx context.Context, version string, healthy bool) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	name := "camera-" + version
	if !healthy {
		name += "-sick"
	}
	out := filepath.Join(root, ".cache", "firmware", name)
	ldflags := fmt.Sprintf("-s -w -X main.version=%s -X main.healthy=%v", version, healthy)
	return out, GoBuild(ctx, root, out, []string{"-trimpath", "-buildvcs=false", "-ldflags", ldflags}, "./internal/demo/camera")
}
