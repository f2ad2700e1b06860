// Package devstack brings up real parts on one machine, for tests, the demo
// and the benchmark: a private PostgreSQL cluster, an InfluxDB, and the
// project's own binaries as processes.
//
// Everything listens on a socket in a private directory or on 127.0.0.1, and
// nothing outlives the program that started it: each child dies with its
// parent (also when that is killed), and the directories it leaves are removed
// by a janitor process that waits on a pipe for the parent's end.
//
// PostgreSQL refuses to run as root; then it runs as the user postgres, in a
// directory below os.TempDir which that user can reach.
package devstack

import (
	"errors"
	"os"
	"path/filepath"
)

// ErrSetup is wrapped when a part is not installed on this machine.
var ErrSetup = errors.New("not installed: run make setup")

// Root finds the repository's root directory from the working directory
// upwards.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && len(data) > 18 && string(data[:18]) == "module groundswell" {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside the groundswell repository")
		}
		dir = parent
	}
}
