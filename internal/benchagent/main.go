// Benchagent measures what the agent takes from a device that has nothing to do: memory
// and processor time, while it holds a session with a real broker and has been
// through an update. It prints a table in Markdown, for the README.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"groundswell/internal/devstack"
	"groundswell/internal/devstack/stack"
)

func main() {
	idle := flag.Duration("idle", time.Minute, "how long to look at it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *idle, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintf(os.Stderr, "benchagent: %v\n", err)
		os.Exit(1)
	}
}

const (
	device = "cam-1"
	model  = "cam-a"
	before = "1.0.0"
	after  = "1.1.0"
)

func run(ctx context.Context, idle time.Duration, log *slog.Logger) (err error) {
	s, err := stack.Start(ctx, stack.Options{WithoutInflux: true, Log: log})
	if err != nil {
		return err
	}
	defer func() {
		if stopped := s.Stop(); err == nil {
			err = stopped
		}
	}()
	agent, err := updated(ctx, s, log)
	if err != nil {
		return err
	}
	log.Info("waiting until it has nothing to do")
	if err := sleep(ctx, 30*time.Second); err != nil {
		return err
	}
	began, err := look(agent.Process.PID())
	if err != nil {
		return err
	}
	log.Info("looking at it", "for", idle)
	if err := sleep(ctx, idle); err != nil {
		return err
	}
	now, err := look(agent.Process.PID())
	if err != nil {
		return err
	}
	minutes := idle.Minutes()
	fmt.Printf("| the agent, idle with a session | |\n| --- | --- |\n")
	fmt.Printf("| resident | %.1f MB: %.1f MB of its own, the rest of the program's file |\n", mb(now.resident), mb(now.own))
	fmt.Printf("| most that was ever resident, through an update | %.1f MB |\n", mb(now.most))
	fmt.Printf("| processor time | %.0f ms a minute |\n", (now.cpu-began.cpu).Seconds()*1000/minutes)
	return nil
}

// updated starts a device and brings it a release. The agent keeps its defaults where
// the stack would have it hurry.
func updated(ctx context.Context, s *stack.Stack, log *slog.Logger) (*stack.Agent, error) {
	firmware := map[string]string{}
	for _, version := range []string{before, after} {
		path, err := devstack.Firmware(ctx, version, true)
		if err != nil {
			return nil, err
		}
		firmware[version] = path
		if err := s.Publish(ctx, "camera", version, path, []string{model}); err != nil {
			return nil, err
		}
	}
	if err := s.API(ctx, "POST", "/v1/cohorts", map[string]any{"name": "bench", "devices": []string{device}}, nil); err != nil {
		return nil, err
	}
	agent, err := s.StartAgent(ctx, stack.AgentOptions{
		ID: device, Model: model, Hardware: "r1", Firmware: firmware[before], Version: before,
		Config: func(c stack.Config) { c.Set("1m", "heartbeat") },
	})
	if err != nil {
		return nil, err
	}
	if err := runs(ctx, s, before); err != nil {
		return nil, err
	}
	log.Info("updating it")
	_, err = s.CreateRollout(ctx, map[string]any{
		"release": map[string]string{"name": "camera", "version": after}, "cohorts": []string{"bench"},
		"policy": map[string]any{"waves": []map[string]any{{"percent": 100, "spread": "0s", "soak": "0s"}}},
	})
	if err != nil {
		return nil, err
	}
	return agent, runs(ctx, s, after)
}

// runs waits until the device has said that it runs a version.
func runs(ctx context.Context, s *stack.Stack, version string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		found, err := s.Devices(ctx, url.Values{"component": {"system"}, "version": {version}})
		if err == nil && len(found) == 1 {
			return nil
		}
		if errSleep := sleep(ctx, 200*time.Millisecond); errSleep != nil {
			return fmt.Errorf("the device does not say that it runs %s: %w", version, errSleep)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }
