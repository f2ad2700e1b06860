package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	"groundswell/topics"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
)

// Peering joins the brokers of a region to one: each embeds a NATS server, and
// these keep every stream on several of them.
type Peering struct {
	// Cluster is the name that all of them share; a legal id.
	Cluster string
	// Listen is host:port for the others; port 0 takes a free one. Advertise is
	// what they are told to dial, where that differs.
	Listen, Advertise string
	// Routes are the others' addresses, host:port; the own may be among them.
	// Nodes that are not named learn of each other from those that are.
	Routes []string
	// TLS is for both directions; see certs.PeerTLS.
	TLS *tls.Config
	// Replicas is how many nodes keep each message: 3 or 5, or 1 (which loses
	// what the one had).
	Replicas int
}

func (p *Peering) validate() error {
	switch {
	case !topics.ValidID(p.Cluster):
		return fmt.Errorf("cluster.name: %q is not a legal id", p.Cluster)
	case p.Replicas != 1 && p.Replicas != 3 && p.Replicas != 5:
		return fmt.Errorf("cluster.replicas: %d is none of 1, 3 and 5", p.Replicas)
	case p.TLS == nil:
		return errors.New("cluster: no TLS")
	case len(p.Routes) == 0:
		return errors.New("cluster.routes: none named, so no other node would be found")
	}
	if _, _, err := hostPort(p.Listen); err != nil {
		return fmt.Errorf("cluster.listen: %w", err)
	}
	if p.Advertise != "" {
		if _, _, err := hostPort(p.Advertise); err != nil {
			return fmt.Errorf("cluster.advertise: %w", err)
		}
	}
	return dialable("cluster.routes", p.Routes)
}

// dialable names the first of the addresses that is no host:port to dial.
func dialable(field string, addresses []string) error {
	for i, address := range addresses {
		if _, port, err := hostPort(address); err != nil || port == 0 {
			return fmt.Errorf("%s[%d]: %q is not host:port", field, i, address)
		}
	}
	return nil
}

func hostPort(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not host:port", address)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%q is not host:port", address)
	}
	return host, port, nil
}

// listenPort is hostPort as the server's options want it.
func listenPort(address string) (host string, port int, err error) {
	host, port, err = hostPort(address)
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, err
}

// join completes the options of a server that has peers.
func (p *Peering) join(o *server.Options) (login nats.Option, err error) {
	o.ReconnectErrorReports = 60                                                    // of the attempts, one a second
	o.LameDuckGracePeriod, o.LameDuckDuration = 200*time.Millisecond, 2*time.Second // for our own connections
	if err := routed(o, p.Cluster, p.Listen, p.Advertise, p.Routes, p.TLS); err != nil {
		return nil, err
	}
	return loopback(o)
}

// routed gives a server routes to others of the same name.
func routed(o *server.Options, name, listen, advertise string, routes []string, peers *tls.Config) error {
	host, port, err := listenPort(listen)
	if err != nil {
		return err
	}
	o.Cluster = server.ClusterOpts{
		Name: name, Host: host, Port: port, Advertise: advertise,
		TLSConfig: peers, TLSTimeout: 5, PingInterval: 2 * time.Second, MaxPingsOut: 3,
	}
	for _, route := range routes {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: route})
	}
	return nil
}

// loopback opens the port for clients without which a server would form no routes.
// It is on loopback, and nobody but this process has the key that login is made of.
func loopback(o *server.Options) (login nats.Option, err error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("key of the loopback port: %w", err)
	}
	user, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("key of the loopback port: %w", err)
	}
	o.DontListen, o.Host, o.Port = false, "127.0.0.1", server.RANDOM_PORT
	o.Nkeys = []*server.NkeyUser{{Nkey: user}}
	return nats.Nkey(user, key.Sign), nil
}

// PeerAddr is the address that other nodes dial, "" when there are none.
func (c *Cluster) PeerAddr() string {
	if c.cfg.Peering == nil || c.server == nil {
		return ""
	}
	return c.server.ClusterAddr().String()
}

func (c *Cluster) replicas() int {
	if c.cfg.Peering == nil {
		return 1
	}
	return c.cfg.Peering.Replicas
}

// askAgain is how long one request to a cluster that forms may take: nobody
// answers while there is no leader.
const askAgain = 2 * time.Second

// patiently repeats what the cluster cannot do yet: while it has no leader, or
// not yet enough nodes for the replicas. Alone, a node does everything at once.
func (c *Cluster) patiently(ctx context.Context, what string, do func(context.Context) error) error {
	told := time.Now()
	for {
		limit := c.cfg.StoreTimeout
		if c.Clustered() {
			limit = min(limit, askAgain)
		}
		attempt, cancel := context.WithTimeout(ctx, limit)
		err := do(attempt)
		cancel()
		if err == nil || !c.Clustered() || !passing(err) {
			return err
		}
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			c.log.Warn("waiting for the other nodes", "for", what, "err", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w: %w", what, ErrUnavailable, ctx.Err(), err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// passing reports whether an error may go away by itself.
func passing(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return true // no answer, or a connection that is not up yet
	}
	switch api.ErrorCode {
	case 10058, 10052, 10065: // in use with other settings, invalid configuration, overlapping subjects
		return false
	}
	return true
}
