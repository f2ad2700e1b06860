// Command broker is the MQTT broker of the fleet: devices and fleetd connect to
// it with certificates; what devices report is stored before it is acknowledged
// and kept until every declared consumer group has handled it; manifests and
// assignments are retained and never go back to an older version.
//
// It is one process with everything embedded: mochi parses MQTT (broker/mqtt),
// NATS JetStream stores (broker/cluster), broker/session is the pure state of a
// client. See those packages for the guarantees.
//
// When it stops in an orderly way, clients get a DISCONNECT and connect again
// elsewhere or later; nothing that was acknowledged is lost by kill -9 either.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"groundswell/broker/cluster"
	"groundswell/broker/mqtt"
	"groundswell/internal/cli"
	"groundswell/internal/memory"
	"groundswell/internal/ops"

	"golang.org/x/sync/errgroup"
)

func main() {
	cli.Daemon[Config]{
		Name:        "broker",
		Description: "The MQTT broker of a Groundswell fleet.",
		Default:     DefaultConfig,
		Run:         run,
	}.Main()
}

func run(ctx context.Context, cfg Config, log *slog.Logger) error {
	log = log.With("node", cfg.Node)
	security, err := loadSecurity(cfg, log)
	if err != nil {
		return err
	}
	storeConfig, err := cfg.store(security.peers)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	registry := ops.NewRegistry()
	store := cluster.New(storeConfig, registry, log)
	edge := mqtt.New(cfg.edge(), security.tls, security.revocations(), store, registry, log)
	server := ops.NewServer(cfg.Ops, registry, log)
	server.Ready("mqtt", edge.Ready)
	server.Ready("store", store.Ready)
	server.Ready("revocations", security.ready)
	if err := server.Listen(); err != nil {
		return err
	}
	security.changed = edge.RevocationsChanged

	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1) // for a backup; without one it means nothing, and does no harm
	defer signal.Stop(asked)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) }) // tells what is missing while the store waits for other nodes
	g.Go(func() error { return security.run(ctx) })
	g.Go(func() error { memory.ReturnWhenQuiet(ctx); return nil })
	g.Go(func() error {
		if err := store.Open(ctx); err != nil {
			if ctx.Err() != nil {
				return nil // told to stop while it waited
			}
			return fmt.Errorf("open store: %w", err)
		}
		defer store.Close()
		if err := edge.Listen(); err != nil {
			return err
		}
		addresses := map[string]string{"mqtt": edge.Addr(), "ops": server.Addr()}
		if web := edge.WebsocketAddr(); web != "" {
			addresses["mqtt-ws"] = web
		}
		if lab := edge.LabAddr(); lab != "" {
			addresses["mqtt-lab"] = lab
		}
		if peers := store.PeerAddr(); peers != "" {
			addresses["peers"] = peers
		}
		if regions := store.GatewayAddr(); regions != "" {
			addresses["gateways"] = regions
		}
		if err := ops.WriteAddresses(cfg.AddressesFile, addresses); err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return edge.Run(ctx) })
		g.Go(func() error { return store.Measure(ctx) })
		g.Go(func() error { store.BackUp(ctx, asked); return nil })
		g.Go(func() error { security.share(ctx, store); return nil })
		return g.Wait()
	})
	return g.Wait()
}
