package module

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"groundswell/agent/child"
	"groundswell/agent/slot"
)

// The steps.
const (
	stepInstall  = "install"
	stepActivate = "activate"
	stepVerify   = "verify"
	stepCommit   = "commit"
	stepRollback = "rollback"
	stepVersion  = "version"
)

// required are the steps without which a module is none.
var required = []string{stepInstall, stepActivate, stepRollback}

// exitLater is the exit status of a step that wants to be asked again later.
const exitLater = 21

var (
	// ErrModule: the directory is not that of a module.
	ErrModule = errors.New("module")
	// errLater: the step wants to be asked again.
	errLater = errors.New("not now")
)

// check names the step that is missing, or that cannot be called.
func check(dir string) error {
	for _, step := range []string{stepInstall, stepActivate, stepVerify, stepCommit, stepRollback, stepVersion} {
		info, err := os.Stat(filepath.Join(dir, step))
		if errors.Is(err, os.ErrNotExist) && !slices.Contains(required, step) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrModule, err)
		}
		if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return fmt.Errorf("%w: %s is not executable", ErrModule, filepath.Join(dir, step))
		}
	}
	return nil
}

// has reports whether the module has an optional step.
func (m *Module) has(step string) bool {
	_, err := os.Stat(filepath.Join(m.cfg.Scripts, step))
	return err == nil
}

const (
	// maxPrinted bounds what is read of what a step answers.
	maxPrinted = 4 << 10
	// questionTime is how long a step may take that only asks.
	questionTime = time.Minute
)

// call runs one step and returns what it prints. target is what is being installed.
func (m *Module) call(ctx context.Context, step string, target, from slot.Image) (string, error) {
	limit := m.cfg.StepTime
	if step == stepVerify || step == stepVersion {
		limit = min(limit, questionTime)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(m.cfg.Scripts, step))
	cmd.Dir = m.work()
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "MODULE_STEP=" + step, "MODULE_DIR=" + m.work(), "MODULE_FROM=" + from.Version,
		"MODULE_VERSION=" + target.Version, "MODULE_SHA256=" + target.SHA256, "MODULE_ARTIFACT=" + m.artifact(),
	}
	answer := child.Head{Max: maxPrinted}
	cmd.Stdout, cmd.Stderr = &answer, m.output
	if step != stepVersion {
		cmd.Stdout = m.output
	}
	err := child.Run(cmd)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return strings.TrimSpace(answer.String()), nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s: killed after %v: %w", step, limit, ctx.Err())
	case errors.As(err, &exit) && exit.ExitCode() == exitLater:
		return "", fmt.Errorf("%s: %w", step, errLater)
	}
	return "", fmt.Errorf("%s: %w", step, err)
}

// insist calls a step until it does not want to be asked again, or its patience ends.
func (m *Module) insist(ctx context.Context, step string, target, from slot.Image) error {
	for deadline := time.Now().Add(m.cfg.Patience); ; {
		_, err := m.call(ctx, step, target, from)
		if !errors.Is(err, errLater) || time.Now().After(deadline) {
			return err
		}
		m.cfg.Log.Info("the module wants to be asked again", "step", step)
		timer := time.NewTimer(m.cfg.Again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}
