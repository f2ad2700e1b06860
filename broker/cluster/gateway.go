package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"time"

	"groundswell/topics"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// DefaultRegion is that of a broker that names none.
const DefaultRegion = "default"

// Gateways joins a region to others. What crosses is what Forward hands to another
// region, and nothing else: the streams of a region stay in it.
//
// The gateways have a NATS server of their own, without JetStream, beside the one
// that stores. In one server they would make one JetStream of all regions: NATS
// counts the nodes of remote gateways among those that have to agree before the first
// stream exists, and knows no JetStream of one node that has gateways. Apart, a
// region that is gone cannot cost another its majority, and streams of the same name
// cannot meet.
type Gateways struct {
	// Listen is host:port for the other regions; port 0 takes a free one. Advertise
	// is what they are told to dial, where that differs.
	Listen, Advertise string
	// Remotes are the other regions. Whoever is not among them is turned away, so
	// each region names every other.
	Remotes []Remote
	// RoutesListen and Routes join the gateways of the nodes of this region, as
	// Peering.Listen and Peering.Routes do for their stores, on ports of their own.
	// Empty without Peering.
	RoutesListen string
	Routes       []string
	// TLS is for both directions; see certs.PeerTLS.
	TLS *tls.Config
}

// Remote is another region.
type Remote struct {
	Region string
	// Servers are Gateways.Listen of some of its nodes, host:port; the others are
	// learned from them.
	Servers []string
}

func (g *Gateways) validate(region string, peered bool) error {
	switch {
	case g.TLS == nil:
		return errors.New("gateways: no TLS")
	case len(g.Remotes) == 0:
		return errors.New("gateways.remotes: none named, so there is nobody to reach")
	case peered && len(g.Routes) == 0:
		return errors.New("gateways.routes: none named, so the answers of another region would not find the node that asked")
	case !peered && len(g.Routes) > 0:
		return errors.New("gateways.routes: are for the nodes of a cluster, and cluster.name is not set")
	}
	addresses := []struct{ field, address string }{{"gateways.listen", g.Listen}}
	if g.Advertise != "" {
		addresses = append(addresses, struct{ field, address string }{"gateways.advertise", g.Advertise})
	}
	if peered {
		addresses = append(addresses, struct{ field, address string }{"gateways.routes_listen", g.RoutesListen})
	}
	for _, a := range addresses {
		if _, _, err := hostPort(a.address); err != nil {
			return fmt.Errorf("%s: %w", a.field, err)
		}
	}
	if err := dialable("gateways.routes", g.Routes); err != nil {
		return err
	}
	seen := map[string]bool{region: true}
	for i, r := range g.Remotes {
		field := fmt.Sprintf("gateways.remotes[%d]", i)
		switch {
		case !topics.ValidID(r.Region):
			return fmt.Errorf("%s.region: %q is not a legal id", field, r.Region)
		case seen[r.Region]:
			return fmt.Errorf("%s.region: %q is this region, or stands twice", field, r.Region)
		case len(r.Servers) == 0:
			return fmt.Errorf("%s.servers: none named", field)
		}
		seen[r.Region] = true
		if err := dialable(field+".servers", r.Servers); err != nil {
			return err
		}
	}
	return nil
}

// options are those of the server that has the gateways.
func (g *Gateways) options(node, region string) (o *server.Options, login nats.Option, err error) {
	host, port, err := listenPort(g.Listen)
	if err != nil {
		return nil, nil, err
	}
	o = &server.Options{
		// Nodes of two regions may have the same name; NATS joins no servers of one name.
		ServerName: region + "." + node, NoSigs: true, NoLog: true, NoSystemAccount: true,
		MaxPayload: topics.MaxPacket + 1<<16, // and its headers
		Cluster:    server.ClusterOpts{Name: region},
		Gateway: server.GatewayOpts{
			Name: region, Host: host, Port: port, Advertise: g.Advertise,
			TLSConfig: g.TLS, TLSTimeout: 5, RejectUnknown: true,
		},
		PingInterval: 5 * time.Second, MaxPingsOut: 3,
		ReconnectErrorReports: 60, // of the attempts, one a second
	}
	for _, r := range g.Remotes {
		remote := &server.RemoteGatewayOpts{Name: r.Region, TLSConfig: g.TLS, TLSTimeout: 5}
		for _, address := range r.Servers {
			remote.URLs = append(remote.URLs, &url.URL{Scheme: "nats", Host: address})
		}
		o.Gateway.Gateways = append(o.Gateway.Gateways, remote)
	}
	if len(g.Routes) > 0 {
		if err := routed(o, region, g.RoutesListen, "", g.Routes, g.TLS); err != nil {
			return nil, nil, err
		}
	}
	login, err = loopback(o)
	return o, login, err
}

// gateway is this node's end of the gateways.
type gateway struct {
	server *server.Server
	conn   *nats.Conn
	life   context.Context // of what waits for an answer
	end    context.CancelFunc
}

// openGateway starts the gateways. It waits for no other region: which of them are
// there decides each forwarding.
func openGateway(cfg Config, log *slog.Logger) (_ *gateway, err error) {
	options, login, err := cfg.Gateways.options(cfg.Node, cfg.Region)
	if err != nil {
		return nil, fmt.Errorf("gateways: %w", err)
	}
	g := &gateway{}
	g.life, g.end = context.WithCancel(context.Background())
	if g.server, err = server.NewServer(options); err != nil {
		return nil, fmt.Errorf("gateways: %w", err)
	}
	log = log.With("part", "gateways")
	g.server.SetLoggerV2(natsLog{log}, false, false, false)
	g.server.Start()
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	if !g.server.ReadyForConnections(startTimeout) {
		return nil, fmt.Errorf("gateways: %w: not ready within %v", ErrUnavailable, startTimeout)
	}
	g.conn, err = nats.Connect("", nats.InProcessServer(g.server), nats.Name(cfg.Node), login,
		nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Warn("connection to the gateways", "err", err)
		}))
	if err != nil {
		return nil, fmt.Errorf("gateways: %w", err)
	}
	return g, nil
}

func (g *gateway) close() {
	g.end()
	if g.conn != nil {
		g.conn.Close()
	}
	g.server.Shutdown()
	g.server.WaitForShutdown()
}

// GatewayAddr is the address that other regions dial, "" when there are none.
func (c *Cluster) GatewayAddr() string {
	if c.gateway == nil {
		return ""
	}
	return c.gateway.server.GatewayAddr().String()
}

// regionsConnected is how many other regions this node has a connection to.
func (c *Cluster) regionsConnected() int {
	if !c.opened.Load() || c.gateway == nil {
		return 0
	}
	return c.gateway.server.NumOutboundGateways()
}

// Region is this broker's own.
func (c *Cluster) Region() string { return c.cfg.Region }

// reaches reports whether a region is among the configured ones.
func (c *Cluster) reaches(region string) bool {
	return c.cfg.Gateways != nil &&
		slices.ContainsFunc(c.cfg.Gateways.Remotes, func(r Remote) bool { return r.Region == region })
}
