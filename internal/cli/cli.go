// Package cli gives every binary the same command line: signals turned into a
// cancelled context, errors printed once and plainly, and exit codes that scripts
// can rely on (0 done, 1 failed, 2 used wrongly).
//
// Daemon is for a program that runs until it is told to stop (--config,
// --check-config, --version). Package cli/tool is for a program of subcommands, by
// kong, which daemons do without: it finds methods by their names, so that whatever
// links it keeps every method of every type, and an agent is 3 MB larger.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes. A command may return others by wrapping its error with Exit.
const (
	OK     = 0
	Failed = 1
	Usage  = 2
)

// Exit gives err an exit code of its own. A nil err prints nothing.
func Exit(code int, err error) error { return &exitError{code, err} }

// UsageError marks err as a wrong use of the command: exit code 2 and a hint
// at --help.
func UsageError(format string, args ...any) error {
	return &exitError{Usage, fmt.Errorf(format, args...)}
}

type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

// Streams are where a program reads and writes; tests pass buffers.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Standard returns the process's own streams.
func Standard() Streams { return Streams{os.Stdin, os.Stdout, os.Stderr} }

// Signalled returns a context that ends at SIGINT or SIGTERM. A second signal
// kills the process, for the operator who does not want to wait.
func Signalled() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Report prints err once and returns the exit code for it. A cancelled context
// is no failure when the cause was a signal.
func Report(ctx context.Context, name string, err error, io Streams) int {
	if err == nil || (ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		return OK
	}
	code := Failed
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(io.Err, "%s: %s\n", name, text)
		if code == Usage {
			fmt.Fprintf(io.Err, "Try: %s --help\n", name)
		}
	}
	return code
}
