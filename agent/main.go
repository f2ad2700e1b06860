// Command agent runs on a device: it reads what the device is to run, installs
// it when the device's turn has come, proves that it is well or goes back, and
// reports.
package main

import (
	// Windows are read in the device's time zone, and many devices have no zone
	// files.
	_ "time/tzdata"

	"groundswell/internal/cli"
)

func main() { daemon().Main() }

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
			{Name: "status", Help: "Print what the journal and the slots say, and exit.", Run: status},
		},
	}
}
