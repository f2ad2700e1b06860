package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"time"

	"groundswell/internal/devstack"
	"groundswell/topics"
)

// server is something to measure: a column of the table.
type server struct {
	name  string // for --servers
	title string
	// promise is what an acknowledged QoS 1 message means.
	promise string
	// ours has the access rules of the wire contract.
	ours bool
	// measures are the names of those that it takes part in; nil: all.
	measures []string
	start    func(ctx context.Context, at site) (*running, error)
}

// site is what a server is started with.
type site struct {
	*credentials
	programs
	dir string // private, empty, for this start alone
}

// programs are the paths of those servers that are built here.
type programs struct{ broker, plainMochi, plainNATS string }

func build(ctx context.Context) (p programs, err error) {
	if p.broker, err = devstack.Program(ctx, "./broker"); err != nil {
		return p, err
	}
	if p.plainMochi, err = devstack.Program(ctx, "./internal/benchbroker/plainmochi"); err != nil {
		return p, err
	}
	p.plainNATS, err = devstack.Program(ctx, "./internal/benchbroker/plainnats")
	return p, err
}

// running is a started server.
type running struct {
	*devstack.Process
	protocol
	addr string
}

// servers are all that can be measured, in the order of the table.
var servers = []server{
	{
		name: "ours", title: "Groundswell, sync always", ours: true,
		promise: "on the disk (fsync) and kept until the consumer group has taken it",
		start:   func(ctx context.Context, at site) (*running, error) { return startOurs(ctx, at, "always") },
	},
	{
		name: "ours-interval", title: "Groundswell, sync 100ms", ours: true, measures: []string{measureConnects, measureUplink},
		promise: "in the kernel's hands, on the disk within 100 ms; kept until the consumer group has taken it",
		start:   func(ctx context.Context, at site) (*running, error) { return startOurs(ctx, at, "100ms") },
	},
	{
		name: "mochi", title: "plain mochi",
		promise: "handed to those subscribers that are there and have room; in memory only",
		start:   func(ctx context.Context, at site) (*running, error) { return startMochi(ctx, at) },
	},
	{
		name: "mochi-tuned", title: "plain mochi, tuned",
		promise: "as plain mochi",
		start:   func(ctx context.Context, at site) (*running, error) { return startMochi(ctx, at, "-tuned") },
	},
	{
		name: "mosquitto", title: "mosquitto",
		promise: "queued for its subscribers; in memory only",
		start:   func(ctx context.Context, at site) (*running, error) { return startMosquitto(ctx, at, false) },
	},
	{
		name: "mosquitto-persistent", title: "mosquitto, persistence on", measures: []string{measureUplink},
		promise: "queued for its subscribers; what is still queued is in a snapshot at most 1 s later, which is not synchronised",
		start:   func(ctx context.Context, at site) (*running, error) { return startMosquitto(ctx, at, true) },
	},
	{
		// Of sessions with a subscription of QoS 1 it takes no more than a thousand.
		name: "nats", title: "nats-server's MQTT", measures: []string{measureConnects, measureUplink, measureRetained, measureHostile},
		promise: "in its JetStream, in the kernel's hands and on the disk within 2 minutes; it speaks 3.1.1",
		start:   startNATS,
	},
}

// startOurs starts the broker as it is built for production. Its one consumer
// group is the one that the load subscribes to.
func startOurs(ctx context.Context, at site, sync string) (*running, error) {
	config := fmt.Sprintf(`node: broker-1
trust_domain: %s
listen: "127.0.0.1:0"
tls: {cert: %q, key: %q, ca: %q, crl: %q}
data_dir: %q
sync: %s
groups: [%s]
ops: {listen: "127.0.0.1:0", pprof: true}
addresses_file: %q
`, domain, at.path("tls.crt"), at.path("tls.key"), at.path("ca.crt"), at.path("crl.pem"),
		filepath.Join(at.dir, "data"), sync, topics.GroupRegistry, filepath.Join(at.dir, "addresses.json"))
	return at.spawn(ctx, "broker", at.broker, config, func(file string) []string { return []string{"--config", file} })
}

func startMochi(ctx context.Context, at site, more ...string) (*running, error) {
	args := append([]string{"-cert", at.path("tls.crt"), "-key", at.path("tls.key"), "-ca", at.path("ca.crt"),
		"-addresses", filepath.Join(at.dir, "addresses.json")}, more...)
	return at.spawn(ctx, "plainmochi", at.plainMochi, "", func(string) []string { return args })
}

func startNATS(ctx context.Context, at site) (*running, error) {
	r, err := at.spawn(ctx, "plainnats", at.plainNATS, "", func(string) []string {
		return []string{"-cert", at.path("tls.crt"), "-key", at.path("tls.key"), "-ca", at.path("ca.crt"),
			"-data", filepath.Join(at.dir, "data"), "-addresses", filepath.Join(at.dir, "addresses.json")}
	})
	if err == nil {
		r.protocol = 4
	}
	return r, err
}

// spawn starts a program that writes its addresses.
func (at site) spawn(ctx context.Context, name, program, config string, args func(file string) []string) (*running, error) {
	file := filepath.Join(at.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	p, err := devstack.Start(ctx, devstack.Spec{
		Name: name, Path: program, Args: args(file), Dir: at.dir,
		LogFile: filepath.Join(at.dir, name+".log"), AddressesFile: filepath.Join(at.dir, "addresses.json"),
	})
	if err != nil {
		return nil, err
	}
	return &running{p, 5, p.Addr("mqtt")}, nil
}

const mosquittoPath = "/usr/sbin/mosquitto"

// startMosquitto starts Debian's mosquitto as a process of this one, with its
// limits on connections and queues out of the way.
func startMosquitto(ctx context.Context, at site, persistent bool) (*running, error) {
	if _, err := os.Stat(mosquittoPath); err != nil {
		return nil, fmt.Errorf("mosquitto (%s) is not installed: run scripts/setup bench", mosquittoPath)
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	addr, err := devstack.FreeAddr()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	persistence := "persistence false\n"
	if persistent {
		persistence = fmt.Sprintf("persistence true\npersistence_location %s/\nautosave_interval 1\n", at.dir)
	}
	file := filepath.Join(at.dir, "mosquitto.conf")
	err = os.WriteFile(file, fmt.Appendf(nil, `user %s
listener %s 127.0.0.1
cafile %s
certfile %s
keyfile %s
tls_version tlsv1.3
require_certificate true
allow_anonymous true
max_connections -1
max_inflight_messages 1024
max_queued_messages 0
set_tcp_nodelay true
log_type error
log_type warning
%s`, me.Username, port, at.path("ca.crt"), at.path("tls.crt"), at.path("tls.key"), persistence), 0o600)
	if err != nil {
		return nil, err
	}
	p, err := devstack.Start(ctx, devstack.Spec{
		Name: "mosquitto", Path: mosquittoPath, Args: []string{"-c", file}, Dir: at.dir, LogFile: filepath.Join(at.dir, "mosquitto.log"),
	})
	if err != nil {
		return nil, err
	}
	if err := awaitListener(ctx, p, addr); err != nil {
		p.Kill()
		return nil, fmt.Errorf("start mosquitto: %w\n%s", err, p.LogTail(20))
	}
	return &running{p, 5, addr}, nil
}

// awaitListener waits until somebody listens.
func awaitListener(ctx context.Context, p *devstack.Process, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if conn, err := net.Dial("tcp", addr); err == nil {
			return conn.Close()
		}
		select {
		case <-p.Done():
			return errors.New("it ended")
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
