// Command trio starts three broker nodes on loopback that are one, says how to
// connect to them, and stops them at Ctrl-C. What they store is there again at the
// next start.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"groundswell/internal/devstack"
)

// grace is how long a node may take to stop.
const grace = 30 * time.Second

func main() {
	dir := flag.String("dir", ".cache/cluster", "where certificates, configurations and data are kept")
	base := flag.Int("port", 28831, "of the first node's MQTT; the others follow, peers are 100 higher and ops 200")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	if err := run(ctx, *dir, *base, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		os.Exit(1)
	}
}

// node is one of the three.
type node struct {
	name             string
	mqtt, peers, ops string // addresses
	spec             devstack.Spec
	process          *devstack.Process
}

func run(ctx context.Context, dir string, base int, out io.Writer) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	nodes, err := plan(dir, base)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "cluster: building the broker (long the first time)")
	program, err := devstack.Program(ctx, "./broker")
	if err != nil {
		return err
	}
	if err := certificates(dir); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := n.configure(dir, program, nodes); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, "cluster: starting three nodes")
	defer stopAll(nodes)
	if err := startAll(ctx, nodes); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := n.awaitReady(ctx); err != nil {
			return err
		}
	}
	fmt.Fprint(out, guide(dir, nodes))
	<-ctx.Done()
	fmt.Fprintln(out, "cluster: stopping")
	return nil
}

// plan gives the nodes their addresses, and checks that they are free.
func plan(dir string, base int) ([]*node, error) {
	var nodes []*node
	for i := range 3 {
		at := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
		n := &node{name: fmt.Sprintf("node-%d", i+1), mqtt: at(base + i), peers: at(base + 100 + i), ops: at(base + 200 + i)}
		for _, address := range []string{n.mqtt, n.peers, n.ops} {
			l, err := net.Listen("tcp", address)
			if err != nil {
				return nil, fmt.Errorf("%s of %s cannot be used (is another cluster running? choose other ports with PORT=n): %w", address, n.name, err)
			}
			_ = l.Close()
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

func (n *node) configure(dir, program string, all []*node) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	var routes []string
	for _, other := range all {
		routes = append(routes, strconv.Quote(other.peers))
	}
	config := fmt.Sprintf(`node: %s
trust_domain: %s
listen: %q
tls: {cert: %q, key: %q, ca: %q, crl: %q}
data_dir: %q
ops: {listen: %q}
addresses_file: %q
cluster: {name: local, listen: %q, routes: [%s]}
limits: {uplink_bytes: 268435456, retained_bytes: 67108864, inbox_bytes: 67108864}
`, n.name, domain, n.mqtt, at("broker.crt"), at("broker.key"), at("ca.crt"), at(n.name+".crl"), at(n.name),
		n.ops, at(n.name+".addresses"), n.peers, strings.Join(routes, ", "))
	list, err := os.ReadFile(at("crl.pem"))
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{n.name + ".yaml": []byte(config), n.name + ".crl": list} {
		if err := os.WriteFile(at(name), data, 0o600); err != nil {
			return err
		}
	}
	n.spec = devstack.Spec{
		Name: n.name, Path: program, Args: []string{"--config", at(n.name + ".yaml")},
		AddressesFile: at(n.name + ".addresses"), LogFile: at(n.name + ".log"), Death: syscall.SIGTERM,
	}
	return nil
}

// startAll starts the nodes at once: none is ready before the others are there.
func startAll(ctx context.Context, nodes []*node) error {
	errs := make([]error, len(nodes))
	var starting sync.WaitGroup
	for i, n := range nodes {
		starting.Go(func() { n.process, errs[i] = devstack.Start(ctx, n.spec) })
	}
	starting.Wait()
	return errors.Join(errs...)
}

// stopAll stops one node after the other, as an upgrade would.
func stopAll(nodes []*node) {
	for _, n := range nodes {
		if n.process != nil && n.process.Stop(grace) != nil {
			n.process.Kill()
		}
	}
}

func (n *node) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		reason := ""
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.ops+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(request); err == nil {
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // for the message only
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			reason = string(text)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: %s\n%s", n.name, ctx.Err(), reason, n.process.LogTail(20))
		case <-time.After(100 * time.Millisecond):
		}
	}
}
