// Bench measures the platform on this machine, end to end, with real processes:
// how long a check-in takes at a steady rate, how many durable status reports
// per second arrive in PostgreSQL, and how long after an operator's "pause" the
// last of many connected devices holds the paused manifest. It prints a table
// in Markdown, which is where the README's figures come from.
//
// The load comes from this process, on the same cores as the platform.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type options struct {
	Devices  int
	Rate     int // check-ins per second
	CheckIns time.Duration
	Reports  int
	Pauses   int
}

func main() {
	var o options
	flag.IntVar(&o.Devices, "devices", 1000, "simulated devices")
	flag.IntVar(&o.Rate, "rate", 200, "check-ins per second")
	flag.DurationVar(&o.CheckIns, "checkins", 30*time.Second, "how long to check in at that rate")
	flag.IntVar(&o.Reports, "reports", 20000, "status reports to send")
	flag.IntVar(&o.Pauses, "pauses", 5, "how often to pause and resume")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, log *slog.Logger) (err error) {
	f, err := prepare(ctx, o.Devices, log)
	if err != nil {
		return err
	}
	defer func() {
		if stopped := f.stack.Stop(); err == nil {
			err = stopped
		}
	}()
	log.Info("checking in", "rate", o.Rate, "for", o.CheckIns)
	checkIns, err := measureCheckIns(ctx, f, o.Rate, o.CheckIns)
	if err != nil {
		return fmt.Errorf("check-ins: %w", err)
	}
	log.Info("connecting everybody", "devices", o.Devices)
	if err := f.connectAll(ctx); err != nil {
		return err
	}
	log.Info("reporting", "reports", o.Reports)
	reports, err := measureReports(ctx, f, o.Reports)
	if err != nil {
		return fmt.Errorf("reports: %w", err)
	}
	log.Info("pausing", "times", o.Pauses)
	pauses, err := measurePauses(ctx, f, o.Pauses)
	if err != nil {
		return fmt.Errorf("pauses: %w", err)
	}
	fmt.Print(table(ctx, f, checkIns, reports, pauses))
	return nil
}
