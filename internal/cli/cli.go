// Package cli gives every binary the same command line: flags by kong, signals
// turned into a cancelled context, errors printed once and plainly, and exit
// codes that scripts can rely on (0 done, 1 failed, 2 used wrongly).
//
// Daemon is for a program that runs until it is told to stop (--config,
// --check-config, --version). Tool is for a program of subcommands, each a
// struct with kong tags and a Run method.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
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

// signalled returns a context that ends at SIGINT or SIGTERM. A second signal
// kills the process, for the operator who does not want to wait.
func signalled() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// exited is what kong's Exit hook panics with, so that --help and --version
// unwind to parse instead of ending the process below a test.
type exited int

// parse runs kong over args. done means that the program has nothing left to
// do (help was printed, or the usage was wrong) and is to end with code.
func parse(name string, grammar any, args []string, io Streams, options ...kong.Option) (kctx *kong.Context, code int, done bool) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(exited)
			if !ok {
				panic(r)
			}
			kctx, code, done = nil, int(e), true
		}
	}()
	options = append([]kong.Option{
		kong.Name(name),
		kong.Writers(io.Out, io.Err),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Vars{"version": name + " " + Version()},
	}, options...)
	parser, err := kong.New(grammar, options...)
	if err != nil {
		panic(fmt.Sprintf("%s: the command line's grammar is wrong: %v", name, err))
	}
	kctx, err = parser.Parse(args)
	if err != nil {
		path := name
		var parseErr *kong.ParseError
		if errors.As(err, &parseErr) && parseErr.Context != nil {
			if node := parseErr.Context.Selected(); node != nil {
				path = node.FullPath()
			}
		}
		fmt.Fprintf(io.Err, "%s: %v\nTry: %s --help\n", name, err, path)
		return nil, Usage, true
	}
	return kctx, OK, false
}

// report prints err once and returns the exit code for it. A cancelled context
// is no failure when the cause was a signal.
func report(ctx context.Context, name string, err error, io Streams) int {
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
