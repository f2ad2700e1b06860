// Package tool is the command line of a program of subcommands, each a struct with
// kong's tags and a Run method.
package tool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"groundswell/internal/cli"

	"github.com/alecthomas/kong"
)

// Tool describes a program of subcommands. Grammar is a pointer to a struct
// with kong tags; the chosen command's Run method may ask for a
// context.Context, for cli.Streams, and for anything in Bind.
type Tool struct {
	Name        string
	Description string
	Grammar     any
	// Bind are further values that Run methods may take as arguments, matched
	// by type. Embed VersionFlag in the grammar for --version, unless a command
	// needs that flag for something else.
	Bind []any
}

// VersionFlag adds --version to a Tool's grammar.
type VersionFlag struct {
	Version kong.VersionFlag `help:"Print the version and exit."`
}

// Main runs the tool with the process's arguments and ends the process.
func (t Tool) Main() {
	ctx, stop := cli.Signalled()
	code := t.Exec(ctx, os.Args[1:], cli.Standard())
	stop()
	os.Exit(code)
}

// Exec is Main without the process: it returns the exit code. Without a
// command it prints the help and returns cli.Usage.
func (t Tool) Exec(ctx context.Context, args []string, io cli.Streams) int {
	wrong := len(args) == 0
	if wrong {
		args = []string{"--help"}
	}
	kctx, code, done := parse(t.Name, t.Grammar, args, io, kong.Description(t.Description))
	if done {
		if wrong {
			return cli.Usage
		}
		return code
	}
	kctx.BindTo(ctx, (*context.Context)(nil))
	kctx.Bind(io)
	kctx.Bind(t.Bind...)
	err := kctx.Run()
	if ctx.Err() != nil && err != nil {
		return cli.Report(ctx, t.Name, cli.Exit(130, err), io) // interrupted before it was done
	}
	return cli.Report(ctx, t.Name, err, io)
}

// exited is what kong's Exit hook panics with, so that --help and --version
// unwind to parse instead of ending the process below a test.
type exited int

// parse runs kong over args. done means that the program has nothing left to
// do (help was printed, or the usage was wrong) and is to end with code.
func parse(name string, grammar any, args []string, io cli.Streams, options ...kong.Option) (kctx *kong.Context, code int, done bool) {
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
		kong.Vars{"version": name + " " + cli.Version()},
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
		return nil, cli.Usage, true
	}
	return kctx, cli.OK, false
}
