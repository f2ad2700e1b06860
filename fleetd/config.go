package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"groundswell/certs"
	"groundswell/certs/token"
	"groundswell/fleetd/store"
	"groundswell/internal/config"
	"groundswell/internal/ops"
	"groundswell/topics"
)

// Config is fleetd's configuration file.
type Config struct {
	TrustDomain string `yaml:"trust_domain"`
	// Region is that of the broker in broker.servers: whose reports are stored, and
	// whose retained messages are compared with the database. See docs/regions.md.
	Region    string     `yaml:"region"`
	Database  Database   `yaml:"database"`
	API       API        `yaml:"api"`
	Downloads Downloads  `yaml:"downloads"`
	Renewal   Renewal    `yaml:"renewal"`
	Broker    Broker     `yaml:"broker"`
	Influx    Influx     `yaml:"influx"`
	Artifacts Artifacts  `yaml:"artifacts"`
	Deltas    Deltas     `yaml:"deltas"`
	Costs     Costs      `yaml:"costs"`
	Trust     Trust      `yaml:"trust"`
	Rollout   Rollout    `yaml:"rollout"`
	Ops       ops.Config `yaml:"ops"`
	// AddressesFile, if set, is written when all listeners are bound.
	AddressesFile string `yaml:"addresses_file"`
}

// Database is PostgreSQL 15 or newer. Exactly one of URL and URLFile stands.
type Database struct {
	URL     string            `yaml:"url"` // postgres://...
	URLFile config.SecretFile `yaml:"url_file"`
	// MaxConnections of this process.
	MaxConnections int32 `yaml:"max_connections"`
}

// TLS names PEM files.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	CA   string `yaml:"ca"`
	CRL  string `yaml:"crl"` // revocation list, followed while running; empty: nobody can be revoked
}

// API is the REST interface.
type API struct {
	Listen string `yaml:"listen"` // host:port; port 0 takes a free one
	// TLS without files serves plain HTTP, which is allowed on loopback only.
	TLS    TLS    `yaml:"tls"`
	Tokens Tokens `yaml:"tokens"`
}

// Tokens says whose bearer tokens are believed.
type Tokens struct {
	Issuer   string     `yaml:"issuer"`
	Audience string     `yaml:"audience"`
	Keys     []string   `yaml:"keys"` // public keys of the own issuer, as files
	External []External `yaml:"external"`
}

// External is an issuer that publishes its keys as a JWKS.
type External struct {
	Issuer   string `yaml:"issuer"`
	JWKSURL  string `yaml:"jwks_url"`
	Audience string `yaml:"audience"` // empty: as for own tokens
	// RolesClaim is where its tokens say the roles; default "roles".
	RolesClaim string `yaml:"roles_claim"`
	// Roles translates them; empty: viewer, operator and admin as they are.
	Roles map[string]token.Role `yaml:"roles"`
}

// Downloads is the listener where devices fetch artifacts and metadata.
type Downloads struct {
	Listen string `yaml:"listen"`
	TLS    TLS    `yaml:"tls"`
	// RequireDeviceCertificate false lets anybody fetch, for instance a CDN.
	// Nothing that is served is secret.
	RequireDeviceCertificate bool `yaml:"require_device_certificate"`
	// PublicURLs are the base URLs that devices are told, in order of
	// preference. Empty: devices use their own setting.
	PublicURLs []string `yaml:"public_urls"`
	// RedirectTo, if set, is the base URL of a CDN or cache: who asks the listener for
	// an artifact is sent there, while image metadata is served as ever. Agents follow,
	// and begin at public_urls again for the rest of what broke off. It fetches from
	// origin. See docs/artifacts-delivery.md.
	RedirectTo string     `yaml:"redirect_to"`
	SignedURLs SignedURLs `yaml:"signed_urls"`
	Origin     Origin     `yaml:"origin"`
	Limits     Limits     `yaml:"limits"`
}

// Renewal is the listener where devices get a new certificate for the one that they
// have. Without an address there is none. It needs the key of an authority that
// broker and downloads believe: whoever steals it can pass for any device or
// service, though not sign what devices install. See docs/recovery.md.
type Renewal struct {
	Listen string `yaml:"listen"`
	// Cert and Key are the authority's. The listener's own certificate, the
	// authorities that it believes and the revocation list are those of
	// downloads.tls; the list must be there.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// Grace is how long after its end a certificate is renewed. Default 0: only
	// while it is valid. A device that is stolen in that time, and revoked by
	// nobody, can come back as well.
	Grace time.Duration `yaml:"grace"`
	// Lifetime is that of new certificates, and ends with the authority's own.
	// Default 1 year.
	Lifetime time.Duration `yaml:"lifetime"`
}

// Broker is how to reach it.
type Broker struct {
	Servers []string `yaml:"servers"` // mqtts://host:port
	TLS     TLS      `yaml:"tls"`
	// Regions are further ones that the broker forwards to (its gateways.remotes).
	Regions []string `yaml:"regions"`
}

// Influx is where telemetry goes. Without a URL there is none.
type Influx struct {
	URL    string `yaml:"url"`
	Org    string `yaml:"org"`    // empty for InfluxDB 1.8
	Bucket string `yaml:"bucket"` // "database/retention-policy" for InfluxDB 1.8
	// TokenFile, or else Username and PasswordFile for InfluxDB 1.8.
	TokenFile    config.SecretFile `yaml:"token_file"`
	Username     string            `yaml:"username"`
	PasswordFile config.SecretFile `yaml:"password_file"`
}

// Trust names the roots to begin with and the online keys.
type Trust struct {
	ImageRoot    string `yaml:"image_root"`
	DirectorRoot string `yaml:"director_root"`
	DirectorKey  string `yaml:"director_key"` // this replica's own
	SnapshotKey  string `yaml:"snapshot_key"`
	TimestampKey string `yaml:"timestamp_key"`
	// PassphraseFile opens the keys that are encrypted.
	PassphraseFile config.SecretFile `yaml:"passphrase_file"`
}

// Rollout is the driver's section.
type Rollout struct {
	Tick time.Duration `yaml:"tick"` // how often it looks at running rollouts
	// KeepTransfers is how long, after a rollout's end, the rows of where each device's
	// bytes came from are kept, before only the rollout's sums are left, which look the
	// same. 0: for ever, which is the default: a replica of the version before would count
	// again what is in the sums. To be set when there is none any more, and to the same in all.
	KeepTransfers time.Duration `yaml:"keep_transfers"`
}

// DefaultConfig holds what has a default.
func DefaultConfig() Config {
	return Config{
		Region:   store.DefaultRegion,
		Database: Database{MaxConnections: 16},
		API:      API{Listen: ":8443", Tokens: Tokens{Issuer: "groundswell", Audience: "fleetd"}},
		Downloads: Downloads{
			Listen: ":8444", RequireDeviceCertificate: true, SignedURLs: SignedURLs{Lifetime: time.Hour},
			Limits: defaultLimits(),
		},
		Renewal:   Renewal{Lifetime: 365 * 24 * time.Hour},
		Artifacts: Artifacts{MaxBytes: 4 << 30},
		Deltas:    defaultDeltas(),
		Rollout:   Rollout{Tick: time.Second},
		Ops:       ops.Config{Listen: "127.0.0.1:9884"},
	}
}

// Validate names the first field that cannot be used. It does no I/O.
func (c *Config) Validate() error {
	checks := []func() error{
		c.validateTrust, c.validateDatabase, c.validateAPI, c.validateDownloads, c.validateDelivery, c.validateArtifacts, c.validateRenewal, c.validateBroker,
		c.validateInflux, c.validateDeltas, c.validateRest,
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

type field struct{ name, value string }

func required(fields ...field) error {
	for _, f := range fields {
		if f.value == "" {
			return errors.New(f.name + ": is not set")
		}
	}
	return nil
}

func (c *Config) validateTrust() error {
	if err := certs.CheckTrustDomain(c.TrustDomain); err != nil {
		return fmt.Errorf("trust_domain: %w", err)
	}
	return required(
		field{"trust.image_root", c.Trust.ImageRoot}, field{"trust.director_root", c.Trust.DirectorRoot},
		field{"trust.director_key", c.Trust.DirectorKey}, field{"trust.snapshot_key", c.Trust.SnapshotKey},
		field{"trust.timestamp_key", c.Trust.TimestampKey},
	)
}

func (c *Config) validateDatabase() error {
	if (c.Database.URL == "") == (c.Database.URLFile == "") {
		return errors.New("database: exactly one of url and url_file must be set")
	}
	if c.Database.MaxConnections < 4 || c.Database.MaxConnections > 1000 {
		return errors.New("database.max_connections: must be from 4 to 1000")
	}
	return nil
}

func (c *Config) validateAPI() error {
	if err := checkListen("api.listen", c.API.Listen); err != nil {
		return err
	}
	switch {
	case c.API.TLS.CA != "" || c.API.TLS.CRL != "":
		return errors.New("api.tls: ca and crl have no meaning here: callers prove themselves by tokens")
	case c.API.TLS.Cert == "" && c.API.TLS.Key == "":
		if !loopback(c.API.Listen) {
			return errors.New("api.tls: cert and key must be set unless api.listen is a loopback address")
		}
	default:
		if err := required(field{"api.tls.cert", c.API.TLS.Cert}, field{"api.tls.key", c.API.TLS.Key}); err != nil {
			return err
		}
	}
	t := c.API.Tokens
	if err := required(field{"api.tokens.issuer", t.Issuer}, field{"api.tokens.audience", t.Audience}); err != nil {
		return err
	}
	if len(t.Keys)+len(t.External) == 0 {
		return errors.New("api.tokens: neither keys nor external issuers are set: nobody could call the API")
	}
	return nil
}

func (c *Config) validateDownloads() error {
	d := c.Downloads
	if err := checkListen("downloads.listen", d.Listen); err != nil {
		return err
	}
	if err := required(field{"downloads.tls.cert", d.TLS.Cert}, field{"downloads.tls.key", d.TLS.Key}); err != nil {
		return err
	}
	if d.RequireDeviceCertificate && d.TLS.CA == "" {
		return errors.New("downloads.tls.ca: is not set, but device certificates are required")
	}
	for i, base := range d.PublicURLs {
		if !baseURL(base) {
			return fmt.Errorf("downloads.public_urls[%d]: %q is not of the form https://host", i, base)
		}
	}
	return nil
}

// baseURL says that paths can be put behind it.
func baseURL(base string) bool {
	u, err := url.Parse(base)
	return err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http") && u.RawQuery == "" && u.Fragment == ""
}

func (c *Config) validateRenewal() error {
	r := c.Renewal
	if r.Listen == "" {
		if r.Cert+r.Key != "" || r.Grace != 0 {
			return errors.New("renewal.listen: is not set, but other fields are")
		}
		return nil
	}
	if err := checkListen("renewal.listen", r.Listen); err != nil {
		return err
	}
	if err := required(field{"renewal.cert", r.Cert}, field{"renewal.key", r.Key}); err != nil {
		return err
	}
	switch {
	case c.Downloads.TLS.CA == "" || c.Downloads.TLS.CRL == "":
		return errors.New("renewal: downloads.tls.ca and downloads.tls.crl must be set: a device that is revoked must not get a new certificate")
	case r.Grace < 0:
		return errors.New("renewal.grace: must not be negative")
	case r.Lifetime < time.Hour:
		return errors.New("renewal.lifetime: must be at least 1h")
	}
	return nil
}

func (c *Config) validateBroker() error {
	if len(c.Broker.Servers) == 0 {
		return errors.New("broker.servers: is not set")
	}
	for i, server := range c.Broker.Servers {
		if u, err := url.Parse(server); err != nil || u.Port() == "" || u.Scheme != "mqtts" {
			return fmt.Errorf("broker.servers[%d]: %q is not of the form mqtts://host:port", i, server)
		}
	}
	if !topics.ValidID(c.Region) {
		return fmt.Errorf("region: %q is not a legal id", c.Region)
	}
	for i, region := range c.Broker.Regions {
		if !topics.ValidID(region) || region == c.Region || slices.Contains(c.Broker.Regions[:i], region) {
			return fmt.Errorf("broker.regions[%d]: %q is not a legal id, is region, or stands twice", i, region)
		}
	}
	return required(field{"broker.tls.cert", c.Broker.TLS.Cert}, field{"broker.tls.key", c.Broker.TLS.Key}, field{"broker.tls.ca", c.Broker.TLS.CA})
}

func (c *Config) validateInflux() error {
	i := c.Influx
	if i.URL == "" {
		if i != (Influx{}) {
			return errors.New("influx.url: is not set, but other fields are")
		}
		return nil
	}
	if u, err := url.Parse(i.URL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fmt.Errorf("influx.url: %q is not of the form http://host:port", i.URL)
	}
	switch {
	case i.Bucket == "":
		return errors.New("influx.bucket: is not set")
	case i.TokenFile != "" && i.Username != "":
		return errors.New("influx: token_file and username cannot both be set")
	case (i.Username == "") != (i.PasswordFile == ""):
		return errors.New("influx: username and password_file go together")
	}
	return nil
}

func (c *Config) validateRest() error {
	if c.Rollout.Tick < 10*time.Millisecond || c.Rollout.Tick > time.Minute {
		return errors.New("rollout.tick: must be from 10ms to 1m")
	}
	if k := c.Rollout.KeepTransfers; k != 0 && (k < time.Hour || k > 87600*time.Hour) {
		return errors.New("rollout.keep_transfers: must be 0 (for ever) or from 1h to 87600h (10 years)")
	}
	return nil
}

func checkListen(name, address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("%s: %q is not of the form host:port", name, address)
	}
	return nil
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
