package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"groundswell/internal/config"

	"github.com/alecthomas/kong"
)

// Daemon describes a program that runs until SIGTERM or SIGINT. C is its
// configuration; when *C or C has a method `Validate() error`, that runs after
// the file was read and before anything else.
type Daemon[C any] struct {
	Name        string
	Description string
	// Default returns the configuration that the file is decoded over.
	Default func() C
	// Run does the work. It returns nil (or ctx's error) after an orderly stop.
	Run func(ctx context.Context, cfg C, log *slog.Logger) error
	// Once, if not nil, is what "run --once" does instead: one turn of the work, and
	// an end. OnceHelp says what that is, and which exit codes it has.
	Once     func(ctx context.Context, cfg C, log *slog.Logger) error
	OnceHelp string
	// Commands are further actions that take the same configuration, for
	// instance "migrate". May be empty.
	Commands []Command[C]
}

// Command is a one-shot action of a daemon's binary.
type Command[C any] struct {
	Name, Help string
	Run        func(ctx context.Context, cfg C, log *slog.Logger) error
}

type daemonFlags struct {
	Config      string           `help:"YAML configuration file; without it the defaults apply." placeholder:"FILE" type:"path"`
	CheckConfig bool             `help:"Print the effective configuration without its secrets, and exit (0 valid, 1 not)."`
	LogLevel    string           `help:"debug, info, warn or error." default:"info" enum:"debug,info,warn,error"`
	Version     kong.VersionFlag `help:"Print the version and exit."`
}

// Main runs the daemon with the process's arguments and ends the process.
func (d Daemon[C]) Main() {
	ctx, stop := signalled()
	code := d.Exec(ctx, os.Args[1:], Standard())
	stop()
	os.Exit(code)
}

// Exec is Main without the process: it returns the exit code.
func (d Daemon[C]) Exec(ctx context.Context, args []string, io Streams) int {
	var flags daemonFlags
	options := []kong.Option{kong.Description(d.Description)}
	run := map[string]func(context.Context, C, *slog.Logger) error{"run": d.Run}
	var runFlags struct {
		Once bool `help:"${once}"`
	}
	const runHelp = "Run until SIGTERM (the default)."
	if d.Once == nil {
		options = append(options, kong.DynamicCommand("run", runHelp, "", &struct{}{}, `default:"1"`))
	} else {
		options = append(options, kong.DynamicCommand("run", runHelp, "", &runFlags, `default:"withargs"`), kong.Vars{"once": d.OnceHelp})
	}
	for _, c := range d.Commands {
		run[c.Name] = c.Run
		options = append(options, kong.DynamicCommand(c.Name, c.Help, "", &struct{}{}))
	}
	kctx, code, done := parse(d.Name, &flags, args, io, options...)
	if done {
		return code
	}
	if runFlags.Once {
		run["run"] = d.Once
	}
	cfg := d.Default()
	if flags.Config != "" {
		if err := config.Load(flags.Config, &cfg); err != nil {
			return report(ctx, d.Name, err, io)
		}
	}
	if v, ok := any(&cfg).(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return report(ctx, d.Name, fmt.Errorf("%w: %w", config.ErrInvalid, err), io)
		}
	}
	if flags.CheckConfig {
		return report(ctx, d.Name, config.Print(io.Out, &cfg), io)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(flags.LogLevel)); err != nil {
		return report(ctx, d.Name, err, io)
	}
	log := slog.New(slog.NewJSONHandler(io.Err, &slog.HandlerOptions{Level: level}))
	return report(ctx, d.Name, run[kctx.Command()](ctx, cfg, log), io)
}
