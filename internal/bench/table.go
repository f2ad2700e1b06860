package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// table writes the results in Markdown, with the machine and the versions.
func table(ctx context.Context, f *fleet, c checkInResult, r reportResult, p pauseResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| what | figure |\n| --- | --- |\n")
	row := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "| %s | %s |\n", what, fmt.Sprintf(format, args...))
	}
	row(fmt.Sprintf("check-in, TCP connect to last manifest, mTLS, %d/s", c.Rate), "p50 %s, p99 %s", ms(percentile(c.Total, 50)), ms(percentile(c.Total, 99)))
	row("check-in, CONNECT to last manifest", "p50 %s, p99 %s", ms(percentile(c.Connected, 50)), ms(percentile(c.Connected, 99)))
	row("check-ins", "%d in %.1f s (%.0f/s), %d failed", len(c.Total), c.Took.Seconds(), float64(len(c.Total))/c.Took.Seconds(), c.Failed)
	row("durable status reports, device to PostgreSQL row", "%.0f/s (%d reports)", float64(r.Reports)/r.Stored.Seconds(), r.Reports)
	row("durable status reports, device to PUBACK", "%.0f/s", float64(r.Reports)/r.Acked.Seconds())
	row(fmt.Sprintf("pause to paused manifest on %d connected devices", p.Devices), "p50 %s, p99 %s; last device p50 %s, worst %s of %d pauses",
		ms(percentile(p.All, 50)), ms(percentile(p.All, 99)), ms(percentile(p.Last, 50)), ms(percentile(p.Last, 100)), len(p.Last))
	fmt.Fprintf(&b, "\nMachine: %d cores (%s), %s. Load and platform on the same machine; the simulated devices do not verify signatures (a device spends its own processor on that).\nVersions: %s.\n", runtime.NumCPU(), cpu(), kernel(), versions(ctx, f))
	if c.FirstError != nil {
		fmt.Fprintf(&b, "First failed check-in: %v\n", c.FirstError)
	}
	return b.String()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

func cpu() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	data, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	return "Linux " + strings.TrimSpace(string(data))
}

func versions(ctx context.Context, f *fleet) string {
	parts := []string{runtime.Version()}
	if out, err := f.stack.Postgres.Query(ctx, "groundswell", "SHOW server_version"); err == nil {
		parts = append(parts, "PostgreSQL "+strings.TrimSpace(out))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if strings.HasSuffix(dep.Path, "eclipse/paho.golang") {
				parts = append(parts, "paho.golang "+dep.Version)
			}
		}
	}
	for _, module := range []string{"mochi-mqtt/server", "nats-server"} {
		if v := required(module); v != "" {
			parts = append(parts, module+" "+v)
		}
	}
	return strings.Join(parts, ", ")
}

// required reads a module's version out of go.mod, for what this program does
// not link itself.
func required(module string) string {
	data, err := os.ReadFile("go.mod")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) >= 2 && strings.Contains(fields[0], module) {
			return fields[1]
		}
	}
	return ""
}
