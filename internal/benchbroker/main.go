// Benchbroker measures our broker beside plain mochi, mosquitto and nats-server, on one
// machine, in one run, with one load: memory of an idle session, connects,
// acknowledged messages, fan-out, retained messages. It prints a table in
// Markdown and writes a file in JSON.
//
// Every server is a process of its own, with the same certificate, mutual TLS
// 1.3 and full handshakes; each measure starts it anew and without data. The
// load comes from this process, on the same cores: what a server gets done per
// second depends on both, so the processor time of the servers stands beside it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"groundswell/internal/devstack"
)

// options are the sizes of a run. A zero duration is chosen by Sessions.
type options struct {
	Sessions   int
	Retained   int
	Publishers int
	Window     int // messages under way per publisher
	Connecting int // connections being made at once
	HalfOpen   int // handshakes that are begun and not ended
	For        time.Duration
	Settle     time.Duration
	Rounds     int
	Servers    string
	Measures   string
	JSON       string
	Heap       string
}

func main() {
	var o options
	flag.IntVar(&o.Sessions, "sessions", 15000, "idle sessions, and subscribers of the manifest")
	flag.IntVar(&o.Retained, "retained", 100000, "retained messages")
	flag.IntVar(&o.Publishers, "publishers", 200, "sessions that publish")
	flag.IntVar(&o.Window, "window", 16, "messages under way per publisher")
	flag.IntVar(&o.Connecting, "connecting", 32, "connections being made at once")
	flag.IntVar(&o.HalfOpen, "half-open", 5000, "handshakes that hostile clients begin and do not end")
	flag.DurationVar(&o.For, "for", 0, "how long to connect, and to publish, per round (default 0.2s to 10s, by --sessions)")
	flag.DurationVar(&o.Settle, "settle", 0, "how long memory must not change to count (default 2s to 130s, by --sessions: Go collects at least every two minutes)")
	flag.IntVar(&o.Rounds, "rounds", 3, "repetitions, of which the median counts")
	flag.StringVar(&o.Servers, "servers", "", "which servers, comma-separated (default all: "+names()+")")
	flag.StringVar(&o.Measures, "measures", "", "which measures, comma-separated (default all: "+strings.Join(measures, ",")+")")
	flag.StringVar(&o.JSON, "json", "bench-broker.json", "file for the results")
	flag.StringVar(&o.Heap, "heap", "", "file for a heap profile of our broker with its idle sessions")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	r, err := run(ctx, o, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err == nil {
		fmt.Print(r.table())
		err = r.save(o.JSON)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench-broker: %v\n", err)
		os.Exit(1)
	}
}

func names() string {
	var all []string
	for _, s := range servers {
		all = append(all, s.name)
	}
	return strings.Join(all, ",")
}

// prepare checks the options and fills in what is left to choose.
func (o *options) prepare() ([]server, error) {
	for name, n := range map[string]int{
		"sessions": o.Sessions, "retained": o.Retained, "publishers": o.Publishers,
		"window": o.Window, "connecting": o.Connecting, "half-open": o.HalfOpen, "rounds": o.Rounds,
	} {
		if n < 1 {
			return nil, fmt.Errorf("--%s: %d is not positive", name, n)
		}
	}
	scaled := func(d *time.Duration, perSession, low, high time.Duration) {
		if *d == 0 {
			*d = min(max(time.Duration(o.Sessions)*perSession, low), high)
		}
	}
	scaled(&o.For, 2*time.Millisecond/3, 200*time.Millisecond, 10*time.Second)
	scaled(&o.Settle, 9*time.Millisecond, 2*time.Second, 130*time.Second)
	if o.Measures == "" {
		o.Measures = strings.Join(measures, ",")
	}
	for name := range strings.SplitSeq(o.Measures, ",") {
		if !slices.Contains(measures, name) {
			return nil, fmt.Errorf("--measures: %q is none of %s", name, strings.Join(measures, ","))
		}
	}
	if o.Servers == "" {
		return servers, nil
	}
	var chosen []server
	for name := range strings.SplitSeq(o.Servers, ",") {
		i := slices.IndexFunc(servers, func(s server) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("--servers: %q is none of %s", name, names())
		}
		chosen = append(chosen, servers[i])
	}
	return chosen, nil
}

// bench is a run.
type bench struct {
	options
	*credentials
	programs programs
	log      *slog.Logger
}

func run(ctx context.Context, o options, log *slog.Logger) (*report, error) {
	chosen, err := o.prepare()
	if err != nil {
		return nil, err
	}
	if err := openFiles(max(o.Sessions, o.Publishers, o.HalfOpen)); err != nil {
		return nil, err
	}
	dir, discard, err := devstack.TempDir("groundswell-bench-")
	if err != nil {
		return nil, err
	}
	defer discard()
	log.Info("issuing certificates", "devices", o.Sessions)
	began := time.Now()
	keys, err := issue(dir, max(o.Sessions, o.Publishers))
	if err != nil {
		return nil, fmt.Errorf("issue certificates: %w", err)
	}
	log.Info("certificates issued", "took", time.Since(began).Round(time.Millisecond))
	log.Info("building the servers")
	b := &bench{options: o, credentials: keys, log: log}
	if b.programs, err = build(ctx); err != nil {
		return nil, err
	}
	r := newReport(o, chosen)
	for _, measure := range measures {
		if !slices.Contains(strings.Split(o.Measures, ","), measure) {
			continue
		}
		for _, s := range chosen {
			if s.measures != nil && !slices.Contains(s.measures, measure) {
				continue
			}
			log.Info("measuring", "what", measure, "server", s.name, "load", load())
			if err := b.measure(ctx, measure, s, r.of(s)); err != nil {
				return nil, fmt.Errorf("%s of %s: %w", measure, s.title, err)
			}
		}
	}
	return r, nil
}

// The measures, in the order of the table.
const (
	measureSessions = "sessions"
	measureConnects = "connects"
	measureUplink   = "uplink"
	measureRetained = "retained"
	measureHostile  = "hostile"
)

var measures = []string{measureSessions, measureConnects, measureUplink, measureRetained, measureHostile}

// measure starts a server for one measure and ends it.
func (b *bench) measure(ctx context.Context, what string, s server, out figures) error {
	dir, err := os.MkdirTemp(b.dir, s.name+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // else with the whole directory
	p, err := s.start(ctx, site{b.credentials, b.programs, dir})
	if err != nil {
		return err
	}
	defer p.Kill() // what it holds is of no use to anybody
	measure := map[string]func(context.Context, server, *running, figures) error{
		measureSessions: b.sessions, measureConnects: b.connects, measureUplink: b.uplink, measureRetained: b.retained,
		measureHostile: b.hostile,
	}[what]
	if err := measure(ctx, s, p, out); err != nil {
		return fmt.Errorf("%w\n%s", err, p.LogTail(10))
	}
	return nil
}

func (r *report) save(file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}
