package cli

import (
	"context"
	"os"

	"github.com/alecthomas/kong"
)

// Tool describes a program of subcommands. Grammar is a pointer to a struct
// with kong tags; the chosen command's Run method may ask for a
// context.Context, for Streams, and for anything in Bind.
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
	ctx, stop := signalled()
	code := t.Exec(ctx, os.Args[1:], Standard())
	stop()
	os.Exit(code)
}

// Exec is Main without the process: it returns the exit code. Without a
// command it prints the help and returns Usage.
func (t Tool) Exec(ctx context.Context, args []string, io Streams) int {
	wrong := len(args) == 0
	if wrong {
		args = []string{"--help"}
	}
	kctx, code, done := parse(t.Name, t.Grammar, args, io, kong.Description(t.Description))
	if done {
		if wrong {
			return Usage
		}
		return code
	}
	kctx.BindTo(ctx, (*context.Context)(nil))
	kctx.Bind(io)
	kctx.Bind(t.Bind...)
	err := kctx.Run()
	if ctx.Err() != nil && err != nil {
		return report(ctx, t.Name, Exit(130, err), io) // interrupted before it was done
	}
	return report(ctx, t.Name, err, io)
}
