package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"groundswell/broker/cluster"
	"groundswell/broker/mqtt"
	"groundswell/certs"
	"groundswell/internal/ops"
	"groundswell/topics"
)

// Config is the broker's configuration file.
type Config struct {
	// Node names this broker; it stands in presence messages.
	Node string `yaml:"node"`
	// TrustDomain is the domain whose devices and services may connect. It
	// must be that of the broker's own certificate.
	TrustDomain string `yaml:"trust_domain"`
	// Listen is host:port for MQTT over TLS; port 0 takes a free one.
	Listen string `yaml:"listen"`
	// WebsocketListen is host:port for MQTT over WebSocket (subprotocol "mqtt"),
	// with the same TLS, certificates and limits; port 0 takes a free one. Empty:
	// none. A browser's page is let in from the same host only.
	WebsocketListen string `yaml:"websocket_listen"`
	// ProxyProtocol names the load balancers in front of both listeners.
	ProxyProtocol mqtt.ProxyProtocol `yaml:"proxy_protocol"`
	// Lab is a listener for interoperability work; off unless it has an address.
	Lab mqtt.Lab `yaml:"lab"`
	TLS TLS      `yaml:"tls"`
	// DataDir holds retained messages and what devices have reported.
	DataDir string `yaml:"data_dir"`
	// Sync is "always" (a message is on the disk before it is acknowledged) or
	// how often the disk is synchronised ("100ms"), which loses the last
	// interval when the power goes.
	Sync string `yaml:"sync"`
	// Shards is how many streams the uplink has. Fixed once data is stored.
	Shards int `yaml:"shards"`
	// Groups are the consumer groups that are kept messages for, whether they
	// are connected or not.
	Groups []string `yaml:"groups"`
	// Backup copies the store while it serves: every backup.every, and on SIGUSR1.
	Backup cluster.Backups `yaml:"backup"`
	// Restore is a backup, a directory below backup.dir, that a store without data
	// begins with; with peers, all nodes need it. Empty: none.
	Restore string `yaml:"restore"`
	// Cluster joins further nodes; without a name this one is alone.
	Cluster Peers `yaml:"cluster"`
	// Region names what this broker and its cluster are one of; a fleet has one
	// unless it says otherwise. Gateways joins further ones; without remotes there
	// are none. See docs/regions.md.
	Region   string     `yaml:"region"`
	Gateways Gateways   `yaml:"gateways"`
	Limits   Limits     `yaml:"limits"`
	Ops      ops.Config `yaml:"ops"`
	// AddressesFile, if set, is written when all listeners are bound.
	AddressesFile string `yaml:"addresses_file"`
}

// Peers is how the nodes of a region find one another. They authenticate to each
// other by the certificates of TLS.
type Peers struct {
	// Name of the cluster; the same on all nodes.
	Name string `yaml:"name"`
	// Listen is host:port for the other nodes; Advertise is what they are told to
	// dial, where that differs.
	Listen    string `yaml:"listen"`
	Advertise string `yaml:"advertise"`
	// Routes are the other nodes, host:port; this one may be among them, so that
	// all nodes have the same list.
	Routes []string `yaml:"routes"`
	// Replicas is how many nodes keep each message: 3 or 5 (or 1, which loses
	// what the one had).
	Replicas int `yaml:"replicas"`
}

// Gateways is how regions find one another. Their brokers authenticate to each other
// by the certificates of TLS.
type Gateways struct {
	// Listen is host:port for the other regions; Advertise is what they are told to
	// dial, where that differs.
	Listen    string `yaml:"listen"`
	Advertise string `yaml:"advertise"`
	// Remotes are the other regions. Each region names all others: a region that
	// is not named is turned away.
	Remotes []RemoteRegion `yaml:"remotes"`
	// RoutesListen and Routes are for a region of several nodes: how their gateways
	// find one another, as cluster.listen and cluster.routes are for their stores.
	RoutesListen string   `yaml:"routes_listen"`
	Routes       []string `yaml:"routes"`
}

// RemoteRegion is another region, and gateways.listen of some of its nodes.
type RemoteRegion struct {
	Region  string   `yaml:"region"`
	Servers []string `yaml:"servers"`
}

// TLS names PEM files.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	CA   string `yaml:"ca"`
	// CRL is the revocation list, followed while running. Empty: nobody can be
	// revoked, and the broker says so at start.
	CRL string `yaml:"crl"`
}

// Limits are those of the edge and of the store.
type Limits struct {
	mqtt.Limits `yaml:",inline"`
	// UplinkBytes is how much of what devices report is kept while a group has
	// not handled it. When it is full, publishing is refused.
	UplinkBytes int64 `yaml:"uplink_bytes"`
	// RetainedBytes is the size of all retained messages.
	RetainedBytes int64 `yaml:"retained_bytes"`
	// InboxBytes is the size of what waits for clients that are away or slow.
	InboxBytes int64 `yaml:"inbox_bytes"`
	// StorePending is how many messages may wait for the store at once.
	StorePending int `yaml:"store_pending"`
	// StoreTimeout bounds the wait for the store. Clients should wait longer for
	// their acknowledgements, or they hear nothing instead of a refusal.
	StoreTimeout time.Duration `yaml:"store_timeout"`
}

// DefaultConfig is a single node for everything that is not set. Certificates,
// trust domain and data directory have no default.
func DefaultConfig() Config {
	return Config{
		Node:     "broker-1",
		Listen:   ":8883",
		Sync:     "always",
		Shards:   1,
		Groups:   []string{topics.GroupRegistry, topics.GroupTelemetry},
		Lab:      mqtt.DefaultLab(),
		Backup:   cluster.Backups{Keep: 7},
		Cluster:  Peers{Listen: ":6222", Replicas: 3},
		Region:   cluster.DefaultRegion,
		Gateways: Gateways{Listen: ":7222", RoutesListen: ":6223"},
		Limits: Limits{
			Limits:        mqtt.DefaultLimits(),
			UplinkBytes:   4 << 30,
			RetainedBytes: 1 << 30,
			InboxBytes:    1 << 30,
			StorePending:  16384,
			StoreTimeout:  8 * time.Second,
		},
		Ops: ops.Config{Listen: "127.0.0.1:9883"},
	}
}

// Validate names the first field that cannot be used.
func (c *Config) Validate() error {
	if err := certs.CheckTrustDomain(c.TrustDomain); err != nil {
		return fmt.Errorf("trust_domain: %w", err)
	}
	for _, file := range []struct{ name, path string }{
		{"tls.cert", c.TLS.Cert}, {"tls.key", c.TLS.Key}, {"tls.ca", c.TLS.CA},
	} {
		if file.path == "" {
			return errors.New(file.name + ": is not set")
		}
	}
	if err := c.edge().Validate(); err != nil {
		return err
	}
	store, err := c.store(&tls.Config{}) // the real one is made of files
	if err != nil {
		return err
	}
	return store.Validate()
}

func (c *Config) edge() mqtt.Config {
	return mqtt.Config{
		Node: c.Node, TrustDomain: c.TrustDomain, Listen: c.Listen, WebsocketListen: c.WebsocketListen,
		ProxyProtocol: c.ProxyProtocol, Lab: c.Lab, Limits: c.Limits.Limits,
	}
}

// store is the configuration of the store; peers is how nodes authenticate to one
// another.
func (c *Config) store(peers *tls.Config) (cluster.Config, error) {
	sync, err := cluster.ParseSync(c.Sync)
	if err != nil {
		return cluster.Config{}, err
	}
	store := cluster.Config{
		Node: c.Node, Dir: c.DataDir, Sync: sync, Shards: c.Shards, Groups: c.Groups,
		MaxUplinkBytes: c.Limits.UplinkBytes, MaxRetainedBytes: c.Limits.RetainedBytes,
		MaxInboxBytes: c.Limits.InboxBytes, MaxInboxPerTopic: c.Limits.SessionQueueMessages,
		MaxPending: c.Limits.StorePending, StoreTimeout: c.Limits.StoreTimeout, Region: c.Region,
		Backups: c.Backup, Restore: c.Restore,
	}
	if c.Lab.Listen != "" {
		store.MaxOpenBytes = c.Lab.Bytes
	}
	switch p := c.Cluster; {
	case p.Name != "":
		store.Peering = &cluster.Peering{
			Cluster: p.Name, Listen: p.Listen, Advertise: p.Advertise, Routes: p.Routes, TLS: peers, Replicas: p.Replicas,
		}
	case len(p.Routes) > 0:
		return cluster.Config{}, errors.New("cluster.name: is not set, but routes are")
	}
	switch g := c.Gateways; {
	case len(g.Remotes) > 0:
		store.Gateways = &cluster.Gateways{
			Listen: g.Listen, Advertise: g.Advertise, RoutesListen: g.RoutesListen, Routes: g.Routes, TLS: peers,
		}
		for _, r := range g.Remotes {
			store.Gateways.Remotes = append(store.Gateways.Remotes, cluster.Remote(r))
		}
	case len(g.Routes) > 0:
		return cluster.Config{}, errors.New("gateways.remotes: none named, but routes are")
	}
	return store, nil
}
