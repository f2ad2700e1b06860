package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// UBoot is U-Boot's environment, read and written by its own tools, fw_printenv and
// fw_setenv (Debian: libubootenv-tool). Config should name two copies: then a power
// cut leaves one of them whole.
type UBoot struct {
	// Config is the file that says where the environment lies. Empty: the tools'
	// own, /etc/fw_env.config.
	Config string
}

// toolTime bounds a run of a tool: flash can be slow, but not that slow.
const toolTime = time.Minute

// maxPrinted bounds what is read of an environment.
const maxPrinted = 1 << 20

// Load implements Chain.
func (u UBoot) Load(ctx context.Context) (State, error) {
	out, err := u.run(ctx, "", "fw_printenv")
	if err != nil {
		return State{}, err
	}
	variables := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		variables[name] = value
	}
	return stateOf(variables), nil
}

// Store implements Chain. The tool takes all variables in one go, and writes once.
func (u UBoot) Store(ctx context.Context, s State) error {
	if err := s.Validate(); err != nil {
		return err
	}
	var script strings.Builder
	for _, v := range s.variables() {
		script.WriteString(v.name + "=" + v.value + "\n")
	}
	_, err := u.run(ctx, script.String(), "fw_setenv", "-s", "-")
	return err
}

func (u UBoot) run(ctx context.Context, input, tool string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTime)
	defer cancel()
	if u.Config != "" {
		args = append([]string{"-c", u.Config}, args...)
	}
	cmd := exec.CommandContext(ctx, tool, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &stderr
	out, err := cmd.Output()
	if err == nil && len(out) > maxPrinted {
		err = errors.New("it printed too much")
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w: %.300s", ErrEnvironment, tool, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
