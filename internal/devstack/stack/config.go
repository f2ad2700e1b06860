package stack

import "groundswell/topics"

// The configuration files of a stack.

func (s *Stack) defaultBrokerConfig() Config {
	cfg := Config{}
	cfg.Set("broker-1", "node")
	cfg.Set(s.TrustDomain, "trust_domain")
	cfg.Set("127.0.0.1:0", "listen")
	cfg.Set(s.path("broker"), "data_dir")
	if s.options.WithoutInflux {
		// Nobody would take the other group's share, and it would fill up.
		cfg.Set([]string{topics.GroupRegistry}, "groups")
	}
	cfg.Set(s.key("services", "broker.crt"), "tls", "cert")
	cfg.Set(s.key("services", "broker.key"), "tls", "key")
	cfg.Set(s.key("public", "ca.crt"), "tls", "ca")
	cfg.Set(s.key("public", "crl.pem"), "tls", "crl")
	cfg.Set("127.0.0.1:0", "ops", "listen")
	return cfg
}

func (s *Stack) defaultFleetdConfig() Config {
	cfg := Config{}
	cfg.Set(s.TrustDomain, "trust_domain")
	cfg.Set(s.Postgres.URL(database), "database", "url")
	cfg.Set("127.0.0.1:0", "api", "listen")
	cfg.Set(s.key("services", "fleetd.crt"), "api", "tls", "cert")
	cfg.Set(s.key("services", "fleetd.key"), "api", "tls", "key")
	cfg.Set(tokenIssuer, "api", "tokens", "issuer")
	cfg.Set(tokenAudience, "api", "tokens", "audience")
	cfg.Set([]string{s.key("public", "token.pub")}, "api", "tokens", "keys")
	cfg.Set("127.0.0.1:0", "downloads", "listen")
	cfg.Set(s.key("services", "fleetd.crt"), "downloads", "tls", "cert")
	cfg.Set(s.key("services", "fleetd.key"), "downloads", "tls", "key")
	cfg.Set(s.key("public", "ca.crt"), "downloads", "tls", "ca")
	cfg.Set(s.key("public", "crl.pem"), "downloads", "tls", "crl")
	cfg.Set([]string{s.BrokerURL()}, "broker", "servers")
	cfg.Set(s.key("services", "fleetd.crt"), "broker", "tls", "cert")
	cfg.Set(s.key("services", "fleetd.key"), "broker", "tls", "key")
	cfg.Set(s.key("public", "ca.crt"), "broker", "tls", "ca")
	if s.Influx != nil {
		cfg.Set(s.Influx.URL(), "influx", "url")
		cfg.Set(database+"/autogen", "influx", "bucket")
	}
	cfg.Set(s.path("artifacts"), "artifacts", "dir")
	cfg.Set(s.key("public", "image-root.json"), "trust", "image_root")
	cfg.Set(s.key("public", "director-root.json"), "trust", "director_root")
	cfg.Set(s.key("online", "director.key"), "trust", "director_key")
	cfg.Set(s.key("online", "snapshot.key"), "trust", "snapshot_key")
	cfg.Set(s.key("online", "timestamp.key"), "trust", "timestamp_key")
	if !s.options.Deltas {
		cfg.Set(0, "deltas", "per_release")
	}
	cfg.Set("250ms", "rollout", "tick")
	cfg.Set("127.0.0.1:0", "ops", "listen")
	return cfg
}

// BrokerURL is the broker's address for MQTT clients.
func (s *Stack) BrokerURL() string { return "mqtts://" + s.Broker.Addr("mqtt") }

// DownloadURL is where devices fetch artifacts and metadata.
func (s *Stack) DownloadURL() string { return "https://" + s.Fleetd.Addr("downloads") }

// APIURL is fleetd's REST address.
func (s *Stack) APIURL() string { return "https://" + s.Fleetd.Addr("api") }
