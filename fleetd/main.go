// Fleetd is the control plane: the registry of devices, the catalogue of
// releases, and the rollouts that bring one to the other. PostgreSQL holds the
// truth; what devices read is a signed projection of it on the broker.
//
// One process is all of it: REST interface, downloads, ingestion, the driver
// of rollouts, the publisher. Any number of replicas run side by side on one
// database: each serves, ingests and publishes; a lease says which one drives.
//
// It starts in any order with its neighbours: it waits for PostgreSQL, and the
// broker and InfluxDB may come and go at any time.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"groundswell/fleetd/deltas"
	"groundswell/internal/cli"
	"groundswell/internal/delta"
	"groundswell/internal/expand/find"
	"groundswell/migrations"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == deltas.ChildCommand {
		// Not a command for people: makedeltas.go starts it.
		if err := deltas.RunChild(context.Background(), delta.Encode, find.Encode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(deltas.ExitCode(err))
		}
		return
	}
	cli.Daemon[Config]{
		Name:        "fleetd",
		Description: "Rolls firmware out to fleets of devices, in waves.",
		Default:     DefaultConfig,
		Run:         run,
		Commands: []cli.Command[Config]{
			{Name: "migrate", Help: "Bring the database's schema up to date, and end. If a table is in use for too long it fails: repeat it.", Run: migrate},
		},
	}.Main()
}

// migrate is what run does at its start, by itself.
func migrate(ctx context.Context, cfg Config, log *slog.Logger) error {
	url, err := cfg.Database.url()
	if err != nil {
		return err
	}
	result, err := migrations.Apply(ctx, url)
	if err != nil {
		return err
	}
	log.Info("database schema", "from", result.From, "to", result.To, "newer_than_known", result.Newer)
	return nil
}

func (d Database) url() (string, error) {
	if d.URLFile == "" {
		return d.URL, nil
	}
	url, err := d.URLFile.Read()
	if err != nil {
		return "", fmt.Errorf("database.url_file: %w", err)
	}
	return strings.TrimSpace(url), nil
}

// instance names this process, on the broker and in leases.
func instance() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	host, _, _ = strings.Cut(host, ".")
	return "fleetd-" + host + "-" + strings.ToLower(rand.Text()[:8])
}
