// Command agent runs on a device: it reads what the device is to run, installs
// it when the device's turn has come, proves that it is well or goes back, and
// reports.
package main

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"

	// Windows are read in the device's time zone, and many devices have no zone
	// files.
	_ "time/tzdata"

	"groundswell/agent/self"
	"groundswell/agent/telemetry"
	"groundswell/internal/cli"
)

// memoryLimit is how much memory the agent takes, in bytes, before it collects what it does
// not use more often than by Go's habit of letting it double. It never takes less than it
// needs. The environment's GOMEMLIMIT goes before.
const memoryLimit = 24 << 20

func main() {
	limitMemory()
	launch()
	daemon().Main()
}

func limitMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}

// launch is what `agent launch` does, before anything else is looked at: it goes on only
// as the agent that was packaged, or if that was not asked for.
func launch() {
	if len(os.Args) < 2 || os.Args[1] != self.Command {
		return
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("part", "launcher")
	args, code := self.Launch(telemetry.Version, os.Args[2:], log)
	if args == nil {
		os.Exit(code)
	}
	os.Args = append(os.Args[:1], args...)
}

func misplaced(context.Context, Config, *slog.Logger) error {
	return cli.UsageError("%s: must be the first argument: agent launch DIR [ARG...]", self.Command)
}

func daemon() cli.Daemon[Config] {
	return cli.Daemon[Config]{
		Name:        "agent",
		Description: "Keeps a device up to date, and never bricks it.",
		Default:     DefaultConfig,
		Run:         run,
		Once:        runOnce,
		OnceHelp:    onceHelp,
		Commands: []cli.Command[Config]{
			{Name: "provision", Help: "Put the initial version of the configuration into the first slot, and exit.", Run: provision},
			{Name: self.Command, Help: "launch DIR [ARG...]: run the agent that the slots in DIR hold, or this one, with these arguments.", Run: misplaced},
			{Name: "status", Help: "Print what the journal and the slots say, and exit.", Run: status},
		},
	}
}
