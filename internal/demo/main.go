// Demo runs the platform's main job on this machine, with nothing faked: a
// private PostgreSQL and InfluxDB, a broker, fleetd, and 40 agents, each a
// process with its own certificate, slots and firmware.
//
// It publishes signed firmware, a part of which is compressed, rolls a good version out
// in waves to the whole fleet, by a delta that looks through that compression (pausing
// once on the way, to measure how fast that reaches the devices),
// then a bad one, which its canary devices refuse by their health check and roll
// back, so that the breaker stops it. It shows the waves while they run, prints
// a summary, writes demo.json, and exits 0 only if all of that came true.
//
// With --keep everything stays up until Ctrl-C.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"groundswell/certs/token"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/stack"
)

func main() {
	keep := flag.Bool("keep", false, "leave everything up until Ctrl-C")
	agents := flag.Int("agents", 40, "how many devices, at least 12")
	out := flag.String("out", "demo.json", "where to write the results; empty: nowhere")
	limit := flag.Duration("limit", 6*time.Minute, "give up after this time, counted from the end of the set-up")
	withParent := flag.Bool("with-parent", false, "stop when the program that started this one ends, however it does")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	if *withParent {
		if err := endWithParent(); err != nil {
			fmt.Fprintf(os.Stderr, "demo: --with-parent: %v\n", err)
			os.Exit(1)
		}
	}
	if err := run(ctx, *keep, *agents, *out, *limit); err != nil {
		if ctx.Err() != nil {
			fmt.Fprintf(os.Stderr, "demo: interrupted: %v\n", err)
			os.Exit(130)
		}
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, keep bool, agents int, out string, limit time.Duration) (err error) {
	if agents < 12 {
		return errors.New("--agents: at least 12 are needed for every model, region and mode to occur")
	}
	say := narrator(time.Now())
	say("set-up: building the programs and three versions of the firmware (long the first time)")
	if _, err := devstack.Binaries(ctx); err != nil {
		return err
	}
	images, discard, err := devstack.TempDir("groundswell-firmware-")
	if err != nil {
		return err
	}
	defer discard()
	firmware, err := buildFirmware(ctx, images)
	if err != nil {
		return err
	}
	began := time.Now()
	timed, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	say("bringing up PostgreSQL, InfluxDB, a broker and fleetd")
	s, err := stack.Start(timed, stack.Options{
		TrustDomain: "demo.groundswell", PostgresFsync: true, Deltas: true, Log: slog.New(steps{say}),
	})
	if err != nil {
		return err
	}
	defer func() {
		say("stopping everything")
		stopErr := s.Stop()
		switch {
		case stopErr != nil:
			err = errors.Join(err, stopErr)
		case err != nil && ctx.Err() != nil:
			err = errors.New("everything was stopped")
		}
	}()

	d := &demo{stack: s, say: say, agents: agents, firmware: firmware, view: newView(os.Stdout)}
	result, err := d.play(timed)
	if result != nil {
		result.Seconds = round(time.Since(began).Seconds())
		result.OK = err == nil
		if out != "" {
			if writeErr := writeResult(out, result); writeErr != nil {
				return errors.Join(err, writeErr)
			}
		}
		result.print(os.Stdout)
		if out != "" {
			fmt.Printf("\nWrote %s after %.0f s.\n", out, result.Seconds)
		}
	}
	if err != nil {
		if timed.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("not done within %v: %w", limit, err)
		}
		return err
	}
	if keep {
		if err := d.invite(os.Stdout); err != nil {
			return err
		}
		<-ctx.Done()
	}
	return nil
}

// endWithParent has the kernel send this process SIGTERM when its parent ends, so
// that nothing is left when that was killed.
func endWithParent() error {
	parent := os.Getppid()
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0); errno != 0 {
		return errno
	}
	if os.Getppid() != parent { // it ended before the kernel knew
		return errors.New("the parent has ended already")
	}
	return nil
}

// narrator prints what happens, with the time since the start.
func narrator(began time.Time) func(string, ...any) {
	return func(format string, args ...any) {
		fmt.Printf("[%5.1f s] %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
}

// steps shows the stack's log as narration.
type steps struct{ say func(string, ...any) }

func (s steps) Enabled(context.Context, slog.Level) bool { return true }
func (s steps) Handle(_ context.Context, r slog.Record) error {
	s.say("  %s", r.Message)
	return nil
}
func (s steps) WithAttrs([]slog.Attr) slog.Handler { return s }
func (s steps) WithGroup(string) slog.Handler      { return s }

// invite says what to do with a stack that stays up.
func (d *demo) invite(w io.Writer) error {
	s := d.stack
	config := s.Keys + "/fleetctl.yaml"
	env := fmt.Sprintf("export FLEETCTL_CONFIG=%s FLEETCTL_SERVER=%s FLEETCTL_TOKEN_FILE=%s",
		config, s.APIURL(), s.TokenFile(token.Admin))
	quick, err := json.MarshalIndent(policy(10, 100), "", "  ")
	if err != nil {
		return err
	}
	file, err := s.WriteFile("quick.json", string(quick))
	if err != nil {
		return err
	}
	fmt.Fprintf(w, `
Everything stays up until Ctrl-C.
  REST, API pages   %s/docs (certificate authority: %s/public/ca.crt)
  broker            %s
  InfluxDB          %s, bucket groundswell/autogen
  PostgreSQL        psql -h %s -U groundswell groundswell
  tokens            %s
  logs              %s/log

Try next, in another terminal, after
  %s
these:
  %s device list --region eu --below 1.2.0
  %s rollout revert %s --to 1.0.0 --policy %s
  %s rollout watch
`, s.APIURL(), s.Keys, s.BrokerURL(), s.Influx.URL(), s.Postgres.Dir(), s.TokenFile(token.Admin), s.Dir,
		env, s.Bins.Fleetctl, s.Bins.Fleetctl, d.good, file, s.Bins.Fleetctl)
	return nil
}

func writeResult(path string, r *Result) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
