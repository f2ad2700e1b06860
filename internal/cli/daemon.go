package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"groundswell/internal/config"
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

// Commands of a daemon take flags before and after their name.
type daemonFlags struct {
	config      string
	checkConfig bool
	logLevel    string
	version     bool
	once        bool
	command     string
}

// parse reads arguments. flag.ErrHelp means that help was asked for.
func (d Daemon[C]) parse(args []string) (f daemonFlags, err error) {
	set := flag.NewFlagSet(d.Name, flag.ContinueOnError)
	set.SetOutput(io.Discard) // errors are printed once, by Exec
	set.StringVar(&f.config, "config", "", "")
	set.BoolVar(&f.checkConfig, "check-config", false, "")
	set.StringVar(&f.logLevel, "log-level", "info", "")
	set.BoolVar(&f.version, "version", false, "")
	if d.Once != nil {
		set.BoolVar(&f.once, "once", false, "")
	}
	for {
		if err := set.Parse(args); errors.Is(err, flag.ErrHelp) {
			return f, err
		} else if err != nil {
			return f, errors.New(strings.Replace(err.Error(), "flag provided but not defined: -", "unknown flag --", 1))
		}
		if set.NArg() == 0 {
			break
		}
		if f.command != "" {
			return f, fmt.Errorf("unexpected argument %q", set.Arg(0))
		}
		f.command, args = set.Arg(0), set.Args()[1:]
	}
	switch f.logLevel {
	case "debug", "info", "warn", "error":
	default:
		return f, fmt.Errorf("--log-level: must be debug, info, warn or error, not %q", f.logLevel)
	}
	if f.command == "" {
		f.command = "run"
	}
	return f, nil
}

// help is what --help prints.
func (d Daemon[C]) help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s [COMMAND] [flags]\n\n%s\n\nCommands:\n", d.Name, d.Description)
	commands := append([]Command[C]{{Name: "run", Help: "Run until SIGTERM (the default)."}}, d.Commands...)
	width := 0
	for _, c := range commands {
		width = max(width, len(c.Name))
	}
	for _, c := range commands {
		fmt.Fprintf(&b, "  %-*s  %s\n", width, c.Name, c.Help)
	}
	b.WriteString(`
Flags:
  -h, --help          Show this help.
  --config FILE       YAML configuration file; without it the defaults apply.
  --check-config      Print the effective configuration without its secrets, and exit
                      (0 valid, 1 not).
  --log-level LEVEL   debug, info, warn or error. Default info.
  --version           Print the version and exit.
`)
	if d.Once != nil {
		fmt.Fprintf(&b, "  --once              %s\n", strings.ReplaceAll(d.OnceHelp, "\n", "\n                      "))
	}
	return b.String()
}

// Main runs the daemon with the process's arguments and ends the process.
func (d Daemon[C]) Main() {
	ctx, stop := Signalled()
	code := d.Exec(ctx, os.Args[1:], Standard())
	stop()
	os.Exit(code)
}

// Exec is Main without the process: it returns the exit code.
func (d Daemon[C]) Exec(ctx context.Context, args []string, io Streams) int {
	flags, err := d.parse(args)
	run := map[string]func(context.Context, C, *slog.Logger) error{"run": d.Run}
	for _, c := range d.Commands {
		run[c.Name] = c.Run
	}
	_, known := run[flags.command]
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(io.Out, d.help())
		return OK
	case err != nil:
		return Report(ctx, d.Name, UsageError("%w", err), io)
	case flags.version:
		fmt.Fprintln(io.Out, d.Name, Version())
		return OK
	case !known:
		return Report(ctx, d.Name, UsageError("unknown command %q", flags.command), io)
	}
	if flags.once {
		if flags.command != "run" {
			return Report(ctx, d.Name, UsageError("--once: belongs to run"), io)
		}
		run["run"] = d.Once
	}
	cfg := d.Default()
	if flags.config != "" {
		if err := config.Load(flags.config, &cfg); err != nil {
			return Report(ctx, d.Name, err, io)
		}
	}
	if v, ok := any(&cfg).(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return Report(ctx, d.Name, fmt.Errorf("%w: %w", config.ErrInvalid, err), io)
		}
	}
	if flags.checkConfig {
		return Report(ctx, d.Name, config.Print(io.Out, &cfg), io)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(flags.logLevel)); err != nil {
		return Report(ctx, d.Name, err, io)
	}
	log := slog.New(slog.NewJSONHandler(io.Err, &slog.HandlerOptions{Level: level}))
	return Report(ctx, d.Name, run[flags.command](ctx, cfg, log), io)
}
