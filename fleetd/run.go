package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"groundswell/certs/token"
	"groundswell/fleetd/api"
	"groundswell/fleetd/artifact"
	"groundswell/fleetd/ingest"
	"groundswell/fleetd/ingest/influx"
	"groundswell/fleetd/publish"
	"groundswell/fleetd/renewal"
	"groundswell/fleetd/rollout"
	"groundswell/fleetd/store"
	"groundswell/internal/cli"
	"groundswell/internal/ops"
	"groundswell/migrations"
)

// run wires everything and runs it until ctx ends.
func run(ctx context.Context, cfg Config, log *slog.Logger) error {
	s, err := loadSecrets(cfg, log)
	if err != nil {
		return err
	}
	metrics := ops.NewRegistry()
	opsServer := ops.NewServer(cfg.Ops, metrics, log)
	if err := opsServer.Listen(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return opsServer.Run(ctx) })
	g.Go(func() error { return serve(ctx, cfg, s, opsServer, metrics, log) })
	return g.Wait()
}

// serve waits for the database and runs all that needs it.
func serve(ctx context.Context, cfg Config, s secrets, opsServer *ops.Server, metrics *ops.Registry, log *slog.Logger) error {
	db, err := openStore(ctx, cfg, s, opsServer, log)
	if err != nil {
		return err
	}
	defer db.Close()
	blobs, err := openBlobs(ctx, cfg.Artifacts)
	if err != nil {
		return err
	}
	defer blobs.Close()
	opsServer.Ready("artifacts", blobs.Ready)
	catalogue := artifact.NewCatalogue(artifact.CatalogueConfig{
		TrustDomain: cfg.TrustDomain, Store: db, Blobs: blobs, ImageRoot: s.imageRoot, DirectorRoot: s.directorRoot,
		SnapshotKey: s.snapshotKey, TimestampKey: s.timestampKey, DirectorKey: s.directorKey.Public(), Log: log,
	})
	if err := catalogue.Begin(ctx); err != nil {
		return err
	}
	opsServer.Ready("trust", catalogue.Ready)
	tokens, err := token.NewVerifier(s.tokens)
	if err != nil {
		return err
	}
	opsServer.Ready("tokens", func(context.Context) error { return tokens.Ready() })

	packs, indexDeltas := artifact.NewPacks(blobs), artifact.NewIndexDeltas(blobs)
	server := api.New(api.Config{
		Packed: packed(packs), IndexDelta: indexDelta(indexDeltas),
		Listen: cfg.API.Listen, TLS: s.apiTLS, Store: db, Blobs: blobs, Catalogue: catalogue, Tokens: tokens,
		Prices:  api.Prices{PerGB: cfg.Costs.PricePerGB, Currency: cfg.Costs.Currency},
		Version: cli.Version(), Metrics: metrics, Log: log,
	})
	if err := server.Listen(); err != nil {
		return err
	}
	downloads, err := net.Listen("tcp", cfg.Downloads.Listen)
	if err != nil {
		return errors.Join(fmt.Errorf("downloads listener: %w", err), server.Close())
	}
	renewals, err := listenIf(cfg.Renewal.Listen, "renewal")
	if err != nil {
		return errors.Join(err, server.Close(), downloads.Close())
	}
	origin, err := listenIf(cfg.Downloads.Origin.Listen, "downloads.origin")
	if err != nil {
		return errors.Join(err, server.Close(), downloads.Close(), renewals.Close())
	}
	closeAll := func() error {
		return errors.Join(server.Close(), downloads.Close(), renewals.Close(), origin.Close())
	}
	name := instance()
	publisher, err := publish.New(publish.Config{Store: db, Servers: cfg.Broker.Servers, TLS: s.brokerTLS, ClientID: name + "-publish", Log: log,
		Region: cfg.Region, Regions: cfg.Broker.Regions})
	if err != nil {
		return errors.Join(err, closeAll())
	}
	opsServer.Ready("broker", func(context.Context) error { return publisher.Ready() })
	groups, err := newGroups(cfg, s, db, opsServer, metrics, name, log)
	if err != nil {
		return errors.Join(err, closeAll())
	}
	maker := newDeltas(cfg, db, blobs, packs, name, metrics, log)
	driver := rollout.New(rollout.Config{Store: db, Tick: cfg.Rollout.Tick, Holder: name, KeepTransfers: cfg.Rollout.KeepTransfers, Metrics: metrics, Log: log})
	addresses := map[string]string{"api": server.Addr(), "downloads": downloads.Addr().String(), "ops": opsServer.Addr()}
	if s.renewalTLS != nil {
		addresses["renewal"] = renewals.Addr().String()
	}
	if cfg.Downloads.Origin.Listen != "" {
		addresses["origin"] = origin.Addr().String()
	}
	if err := ops.WriteAddresses(cfg.AddressesFile, addresses); err != nil {
		return errors.Join(err, closeAll())
	}
	log.Info("fleetd is up", "instance", name, "api", server.Addr(), "downloads", downloads.Addr().String(), "ops", opsServer.Addr())

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) })
	toDevices, toCaches := delivery(cfg.Downloads, s, artifact.DownloadsConfig{
		Blobs: blobs, Packs: packs, IndexDeltas: indexDeltas, Files: catalogue, Metrics: artifact.NewMetrics(metrics), Log: log,
	})
	g.Go(func() error { return api.Serve(ctx, downloads, s.downloadsTLS, s.unlessRevoked(toDevices), log) })
	if cfg.Downloads.Origin.Listen != "" {
		g.Go(func() error { return api.Serve(ctx, origin, s.originTLS, toCaches, log) })
	}
	if s.renewalTLS != nil {
		g.Go(func() error {
			return api.Serve(ctx, renewals, s.renewalTLS, s.unlessRevoked(renewal.Handler(db, s.renewalCA, cfg.Renewal.Lifetime, log)), log)
		})
	}
	g.Go(func() error { return tokens.Run(ctx) })
	g.Go(func() error { return catalogue.Run(ctx) })
	g.Go(func() error { return catalogue.Pack(ctx, packs) })
	g.Go(func() error { return driver.Run(ctx) })
	g.Go(func() error { return publisher.Run(ctx) })
	if maker != nil {
		g.Go(func() error { return maker.Run(ctx) })
	}
	g.Go(func() error { return watchStats(ctx, db, metrics) })
	if s.crl != nil {
		g.Go(func() error { return s.crl.Run(ctx) })
	}
	for _, group := range groups {
		g.Go(func() error { return group.Run(ctx) })
	}
	return g.Wait()
}

// openBlobs opens the directory or the bucket.
func openBlobs(ctx context.Context, a Artifacts) (*artifact.Blobs, error) {
	if a.URL != "" {
		return artifact.OpenBlobsURL(ctx, a.URL, a.MaxBytes)
	}
	return artifact.OpenBlobs(a.Dir, a.MaxBytes)
}

// delivery makes what the listener for devices and the one for caches serve, as the
// configuration says.
func delivery(d Downloads, s secrets, cfg artifact.DownloadsConfig) (toDevices, toCaches http.Handler) {
	cfg.Limits, cfg.Signatures = artifact.NewLimits(d.Limits.config()), s.signatures
	toCaches = artifact.Downloads(cfg)
	cfg.RedirectTo = d.RedirectTo
	return artifact.Downloads(cfg), toCaches
}

// listenIf binds an address; noListener when there is none.
func listenIf(address, name string) (net.Listener, error) {
	if address == "" {
		return noListener{}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s listener: %w", name, err)
	}
	return l, nil
}

type noListener struct{ net.Listener }

func (noListener) Close() error { return nil }

// openStore waits for the database, migrates it and opens it.
func openStore(ctx context.Context, cfg Config, s secrets, opsServer *ops.Server, log *slog.Logger) (*store.Store, error) {
	var up atomic.Pointer[store.Store] // nil: not reached yet
	opsServer.Ready("database", func(ctx context.Context) error {
		if db := up.Load(); db != nil {
			return db.Ping(ctx)
		}
		return errors.New("not reached yet")
	})
	var db *store.Store
	err := patiently(ctx, log, "waiting for the database", func() error {
		result, err := migrations.Apply(ctx, s.databaseURL)
		if err != nil {
			return err
		}
		if result.Newer {
			log.Warn("the database's schema is newer than this fleetd", "schema", result.To)
		} else if result.From != result.To {
			log.Info("database migrated", "from", result.From, "to", result.To)
		}
		db, err = store.Open(ctx, store.Options{
			URL: s.databaseURL, TrustDomain: cfg.TrustDomain, Signer: publish.NewSigner(s.directorKey),
			Regions: append([]string{cfg.Region}, cfg.Broker.Regions...),
			Sources: cfg.Downloads.PublicURLs, Deltas: cfg.Deltas.PerRelease, MaxConns: cfg.Database.MaxConnections, Log: log,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	up.Store(db)
	return db, nil
}

// patiently repeats do until it succeeds or ctx ends.
func patiently(ctx context.Context, log *slog.Logger, message string, do func() error) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 3*time.Second) {
		err := do()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		log.Warn(message, "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// runner is a part that runs until ctx ends.
type runner interface {
	Run(ctx context.Context) error
}

// newGroups makes the consumer groups of the uplink.
func newGroups(cfg Config, s secrets, db *store.Store, opsServer *ops.Server, metrics *ops.Registry, name string, log *slog.Logger) ([]runner, error) {
	to := ingest.Config{Servers: cfg.Broker.Servers, TLS: s.brokerTLS, ClientID: name, Region: cfg.Region, Metrics: ingest.NewMetrics(metrics), Log: log}
	registry, err := ingest.NewRegistry(to, db)
	if err != nil {
		return nil, err
	}
	opsServer.Ready("uplink", func(context.Context) error { return registry.Ready() })
	if cfg.Influx.URL == "" {
		log.Warn("no InfluxDB is configured: telemetry is not stored, and fills the broker's stream unless its group is taken out")
		return []runner{registry}, nil
	}
	points, err := influx.New(s.influx)
	if err != nil {
		return nil, err
	}
	telemetry, err := ingest.NewTelemetry(to, points, db)
	if err != nil {
		return nil, err
	}
	opsServer.Ready("influx", func(context.Context) error { return telemetry.Ready() })
	return []runner{registry, telemetry}, nil
}

// watchStats keeps the database's figures for the metrics.
func watchStats(ctx context.Context, db *store.Store, metrics *ops.Registry) error {
	pending := metrics.NewGauge("groundswell_outbox_pending", "Signed messages that the broker has not taken yet.")
	oldest := metrics.NewGauge("groundswell_outbox_oldest_seconds", "Age of the oldest of them.")
	regionPending := metrics.NewGaugeVec("groundswell_outbox_region_pending", "Signed messages that a region's broker has not taken yet.", "region")
	regionOldest := metrics.NewGaugeVec("groundswell_outbox_region_oldest_seconds", "Age of the oldest of them.", "region")
	dead := metrics.NewGauge("groundswell_dead_letters", "Messages of devices that can never be stored.")
	alerts := metrics.NewGauge("groundswell_alerts", "Conditions that an operator should see and has not acknowledged.")
	for {
		if stats, err := db.Stats(ctx); err == nil { // readiness says when the database is down
			pending.Set(float64(stats.Outbox.Pending))
			oldest.Set(stats.Outbox.Oldest.Seconds())
			for region, backlog := range stats.Regions {
				regionPending.With(region).Set(float64(backlog.Pending))
				regionOldest.With(region).Set(backlog.Oldest.Seconds())
			}
			dead.Set(float64(stats.DeadLetters))
			alerts.Set(float64(stats.Alerts))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Second):
		}
	}
}

// unlessRevoked looks at the certificate at every request: a connection may
// live longer than the certificate is believed.
func (s secrets) unlessRevoked(next http.Handler) http.Handler {
	if s.crl == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if revoked(r.TLS, s) {
			w.Header().Set("Connection", "close")
			http.Error(w, "the certificate is revoked", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func revoked(state *tls.ConnectionState, s secrets) bool {
	return state != nil && len(state.PeerCertificates) > 0 && s.crl.Check(state.PeerCertificates[0]) != nil
}
