package cluster

import (
	"crypto/tls"
	"strings"
	"testing"
)

func TestGatewaysAreRefusedByField(t *testing.T) {
	peering := func(c *Config) {
		c.Peering = &Peering{Cluster: "eu", Listen: "127.0.0.1:0", Routes: []string{"127.0.0.1:1"}, TLS: &tls.Config{}, Replicas: 3}
		c.Gateways.RoutesListen = "127.0.0.1:0"
	}
	for _, test := range []struct {
		field  string
		change func(*Config)
	}{
		{"region", func(c *Config) { c.Region = "a b" }},
		{"gateways.listen", func(c *Config) { c.Gateways.Listen = "nowhere" }},
		{"gateways.advertise", func(c *Config) { c.Gateways.Advertise = "nowhere" }},
		{"gateways.remotes", func(c *Config) { c.Gateways.Remotes = nil }},
		{"gateways.remotes[0].region", func(c *Config) { c.Gateways.Remotes[0].Region = "a b" }},
		{"gateways.remotes[0].region", func(c *Config) { c.Gateways.Remotes[0].Region = c.Region }},
		{"gateways.remotes[1].region", func(c *Config) { c.Gateways.Remotes = append(c.Gateways.Remotes, c.Gateways.Remotes[0]) }},
		{"gateways.remotes[0].servers", func(c *Config) { c.Gateways.Remotes[0].Servers = nil }},
		{"gateways.remotes[0].servers[0]", func(c *Config) { c.Gateways.Remotes[0].Servers[0] = "b:0" }},
		{"gateways.routes", func(c *Config) { c.Gateways.Routes = []string{"127.0.0.1:1"} }},
		{"gateways.routes", peering},
		{"gateways.routes[0]", func(c *Config) { peering(c); c.Gateways.Routes = []string{"a:0"} }},
		{"gateways.routes_listen", func(c *Config) { peering(c); c.Gateways.Routes = []string{"a:1"}; c.Gateways.RoutesListen = "x" }},
	} {
		cfg := config(t)
		cfg.Gateways = &Gateways{Listen: "127.0.0.1:0", Remotes: []Remote{{"us", []string{"a:1"}}}, TLS: &tls.Config{}}
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		test.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), test.field+":") {
			t.Errorf("%s: got %v", test.field, err)
		}
	}
}
