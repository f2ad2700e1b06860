package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/assemble"
	"groundswell/agent/condition"
	"groundswell/agent/health"
	"groundswell/agent/link"
	"groundswell/agent/peers"
	"groundswell/agent/self"
	"groundswell/agent/slot"
	"groundswell/agent/watchdog"
	"groundswell/internal/mqttclient"
	"groundswell/internal/ops"
	"groundswell/topics"
)

// Config is the agent's configuration file. Who the device is (id, model,
// hardware revision, trust domain) comes from its certificate.
type Config struct {
	// Device and TrustDomain, when given, must be those of the certificate.
	Device      string `yaml:"device"`
	TrustDomain string `yaml:"trust_domain"`
	// DataDir holds the journal, the slots and what is trusted. Required.
	DataDir string `yaml:"data_dir"`
	// Component is what the slots hold, where the device has only one. Default
	// "system".
	Component string `yaml:"component"`
	// Components, where there are several, in the order in which they are
	// installed; at most one is installed at a time. In place of Component and of
	// what stands below about a component: Firmware, Module, Machine, Health,
	// Initial.
	Components []Component `yaml:"components"`
	// TimeZone is the IANA name by which windows are read, unless the
	// assignment names one. Empty means UTC.
	TimeZone string `yaml:"time_zone"`

	MQTT  MQTT  `yaml:"mqtt"`
	TLS   TLS   `yaml:"tls"`
	Trust Trust `yaml:"trust"`
	// Renewal is where the certificate is renewed. See docs/recovery.md.
	Renewal Renewal `yaml:"renewal"`
	// Sources are base URLs of artifacts and image metadata, in order of
	// preference, unless the assignment names others.
	Sources []string `yaml:"sources"`
	// Fetch is how long a source is given.
	Fetch Fetch `yaml:"fetch"`
	// Peers has the device copy from others of its site, and give to them. Off unless
	// peers.listen is given. It copies also while Download lets nothing come from the
	// internet, unless the link is metered. See docs/peers.md.
	Peers peers.Config `yaml:"peers"`

	// Download is what downloads may cost: rate, daily budget, windows of their own,
	// metered links. See docs/artifacts.md.
	Download allowance.Config `yaml:"download"`
	// Energy is what bytes and processor time take of a battery, by which a device that runs
	// on it chooses between deltas: radio_uj, processor_mw, decode_rate. What is absent has
	// the defaults of assemble.Energy, each for itself. See docs/battery.md.
	Energy assemble.Energy `yaml:"energy"`

	// Mode is "connected" (default) or "polling", unless the assignment says
	// otherwise.
	Mode    topics.Mode `yaml:"mode"`
	Polling Polling     `yaml:"polling"`
	// Heartbeat is the time between two heartbeats of a connected device,
	// unless the assignment says otherwise. Default 1 min.
	Heartbeat time.Duration `yaml:"heartbeat"`

	Firmware Firmware `yaml:"firmware"`
	// Module, where it names a directory, has something else updated instead.
	Module Module `yaml:"module"`
	// Machine, where it names a bootloader, has the whole system updated instead.
	Machine Machine `yaml:"machine"`
	// RAUC, where it is enabled, has the whole system updated by RAUC.
	RAUC   RAUC   `yaml:"rauc"`
	Health Health `yaml:"health"`
	// Unmanaged is how long what is on trial may run while the agent cannot manage the
	// device with it, for want of a certificate, a root or a port for instance. Then it is
	// put back. Default 10 min.
	Unmanaged time.Duration `yaml:"unmanaged"`
	// Conditions are what the device itself wants before it takes a release, of
	// whatever component.
	Conditions condition.Config `yaml:"conditions"`
	// Self is how the agent is replaced itself.
	Self Self `yaml:"self"`
	// Watchdog resets the machine when the agent does not get on.
	Watchdog watchdog.Config `yaml:"watchdog"`
	// Initial is put into the first slot when there is nothing in the slots.
	Initial Initial `yaml:"initial"`

	// Backoff bounds the pauses between attempts to connect and to download.
	// Default 1 s to 5 min.
	Backoff Backoff `yaml:"backoff"`
	// Retry bounds the pause before the next attempt of a rollout that failed
	// here. Default 1 min to 1 h.
	Retry Backoff `yaml:"retry"`
	// Penalty is how long a version that was put back after its trial waits when another
	// rollout brings the same bytes: min, doubled with each time up to max. A command to
	// retry ends it. Default 1 h to 7 days.
	Penalty Backoff `yaml:"penalty"`

	Ops ops.Config `yaml:"ops"`
	// AddressesFile, if set, is written when the agent runs.
	AddressesFile string `yaml:"addresses_file"`
}

// MQTT is how to reach the broker.
type MQTT struct {
	// Servers are "mqtts://host:port", tried in order. Required.
	Servers []string `yaml:"servers"`
	// KeepAlive is the longest silence before a ping. Default 1 min; at most
	// 65535 s, which is all that MQTT can say.
	KeepAlive time.Duration `yaml:"keep_alive"`
	// SessionExpiry is how long the broker keeps commands for a device that is
	// away. Default 24 h; at least twice the polling interval; at most
	// 4294967295 s, which means for ever.
	SessionExpiry time.Duration `yaml:"session_expiry"`
	// CheckInTimeout bounds how long a polling device waits for what is
	// retained. Default 15 s.
	CheckInTimeout time.Duration `yaml:"check_in_timeout"`
}

// TLS names PEM files. The certificate and its key are read again for each
// connection; for another CA the agent is restarted.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	CA   string `yaml:"ca"`
	// Resume has connections go on with the TLS session of one before, as long as the
	// agent runs: no signatures, but some 1 KB more than without (docs/battery.md).
	// Default true.
	Resume bool `yaml:"resume"`
}

// Trust names the roots that the device was provisioned with.
type Trust struct {
	ImageRoot    string `yaml:"image_root"`
	DirectorRoot string `yaml:"director_root"`
}

// Fetch says when a source is left for the next one.
type Fetch struct {
	// Stall is the longest wait for a connection, for the beginning of an answer
	// and for the next min_rate x stall bytes of an artifact. Metadata and indexes have
	// twice that for twice as many bytes, or for all if there are fewer. Default 30 s.
	Stall time.Duration `yaml:"stall"`
	// MinRate is in bytes a second. On a link that is slower, set it lower: what
	// has come is kept, but each source is left again and again. Default 1024.
	MinRate int64 `yaml:"min_rate"`
	// Authorities is a file of certificates (PEM), or "system" for those of the machine:
	// an https source may also be one that they vouch for, by its host name, as a CDN is.
	// Empty: only services of the fleet. Nothing that a source sends is trusted for it.
	Authorities string `yaml:"authorities"`
}

// public are the authorities of sources that are not of the fleet; nil: none are.
func (f Fetch) public() (*x509.CertPool, error) {
	switch f.Authorities {
	case "":
		return nil, nil
	case "system":
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("fetch.authorities: %w", err)
		}
		return pool, nil
	}
	raw, err := os.ReadFile(f.Authorities)
	if err != nil {
		return nil, fmt.Errorf("fetch.authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("fetch.authorities: %s: no certificate in it (PEM)", f.Authorities)
	}
	return pool, nil
}

// Polling is the schedule of battery mode.
type Polling struct {
	// Interval between two connections. Default 15 min; at most 366 days.
	Interval time.Duration `yaml:"interval"`
	// Jitter is added at random, from [0, Jitter). Default 1 min; at most 366
	// days.
	Jitter time.Duration `yaml:"jitter"`
	// Awake is for how long after a scheduled connection the device may download, and
	// Bytes how much. Then the download waits for the next one. Default 0: no limit.
	Awake time.Duration `yaml:"awake"`
	Bytes int64         `yaml:"bytes"`
	// BelowPercent is the charge below which a device that should stay connected polls
	// instead, unless it is plugged in, until there is BackPercent again. Default 0:
	// never; and 30.
	BelowPercent int `yaml:"below_percent"`
	BackPercent  int `yaml:"back_percent"`
}

// Firmware is how the component is run.
type Firmware struct {
	Args []string `yaml:"args"`
	// Env is all of its environment besides PATH and what the agent sets:
	// FIRMWARE_ADDR, _BOOT_ID, _SLOT and _VERSION, and GROUNDSWELL_SLOTS.
	Env map[string]string `yaml:"env"`
	// Addr is where it listens; it gets it as FIRMWARE_ADDR. With port 0 (the
	// default is 127.0.0.1:0) a free one is chosen for each launch.
	Addr string `yaml:"addr"`
	// Tries is how often a new version is launched on trial. Default 3.
	Tries int `yaml:"tries"`
	// Grace is how long it may take to end. Default 5 s.
	Grace time.Duration `yaml:"grace"`
	// Backoff bounds the pause before a launch after it ended by itself.
	// Default 0.5 s to 30 s.
	Backoff Backoff `yaml:"backoff"`
}

// Health is what a version on trial must show. Entries in manifests may set
// their own Settle and Total.
type Health struct {
	// URL answers 200 when all is well; "{addr}" stands for the component's
	// address. Default http://{addr}/healthz, where it has one; "none" asks for nothing:
	// that the process runs, or the machine, is enough.
	URL string `yaml:"url"`
	// Checks must hold as well, each of its kind; see package health. Where there are none
	// and URL is the default, a whole system and a group must hear the broker.
	Checks   []health.Check `yaml:"checks"`
	Interval time.Duration  `yaml:"interval"` // default 2 s
	Timeout  time.Duration  `yaml:"timeout"`  // default 2 s
	Settle   time.Duration  `yaml:"settle"`   // without a break; default 1 min
	Total    time.Duration  `yaml:"total"`    // default 5 min
}

// Initial is the version that the device leaves the factory with.
type Initial struct {
	Artifact string `yaml:"artifact"` // path of the executable
	Version  string `yaml:"version"`
}

// Backoff is a range of pauses, drawn with full jitter from 0 to
// min(Max, Min x 2^n).
type Backoff struct {
	Min time.Duration `yaml:"min"`
	Max time.Duration `yaml:"max"`
}

// DefaultConfig is what applies where the file is silent.
func DefaultConfig() Config {
	return Config{
		Component: topics.DefaultComponent,
		TLS:       TLS{Resume: true},
		MQTT:      MQTT{KeepAlive: time.Minute, SessionExpiry: 24 * time.Hour, CheckInTimeout: 15 * time.Second},
		Mode:      topics.ModeConnected,
		Polling:   Polling{Interval: 15 * time.Minute, Jitter: time.Minute, BackPercent: 30},
		Heartbeat: time.Minute,
		Unmanaged: 10 * time.Minute,
		Renewal:   Renewal{After: 10 * time.Minute},
		Fetch:     Fetch{Stall: 30 * time.Second, MinRate: 1024},
		Peers:     peers.Default(),
		Energy:    assemble.DefaultEnergy(),
		Firmware: Firmware{
			Addr: "127.0.0.1:0", Tries: 3, Grace: 5 * time.Second,
			Backoff: Backoff{500 * time.Millisecond, 30 * time.Second},
		},
		Health: Health{
			URL: defaultHealthURL, Interval: 2 * time.Second, Timeout: 2 * time.Second,
			Settle: time.Minute, Total: 5 * time.Minute,
		},
		Module:  Module{Tries: 3, StepTime: 30 * time.Minute, Again: time.Minute, Patience: 6 * time.Hour, Interval: 5 * time.Second},
		Machine: Machine{GRUBEnv: "/boot/grub/grubenv", Tries: 3, Restart: []string{"systemctl", "reboot"}},
		Self:    Self{Component: "agent", Tries: 3, Alive: self.DefaultAlive, Settle: time.Minute, Total: 10 * time.Minute},
		RAUC:    RAUC{CallTime: time.Minute, InstallTime: time.Hour, Restart: []string{"systemctl", "reboot"}},
		Backoff: Backoff{time.Second, 5 * time.Minute},
		Retry:   Backoff{time.Minute, time.Hour},
		Penalty: Backoff{time.Hour, 7 * 24 * time.Hour},
	}
}

// Validate names the key that is wrong. It does no I/O.
func (c *Config) Validate() error {
	required := map[string]string{
		"data_dir": c.DataDir, "tls.cert": c.TLS.Cert, "tls.key": c.TLS.Key, "tls.ca": c.TLS.CA,
		"trust.image_root": c.Trust.ImageRoot, "trust.director_root": c.Trust.DirectorRoot,
	}
	for _, key := range []string{"data_dir", "tls.cert", "tls.key", "tls.ca", "trust.image_root", "trust.director_root"} {
		if required[key] == "" {
			return fmt.Errorf("%s: is missing", key)
		}
	}
	if len(c.MQTT.Servers) == 0 {
		return errors.New("mqtt.servers: is missing")
	}
	for i, s := range c.MQTT.Servers {
		if u, err := url.Parse(s); err != nil || u.Scheme != "mqtts" || u.Hostname() == "" || u.Port() == "" {
			return fmt.Errorf("mqtt.servers[%d]: must be of the form mqtts://host:port", i)
		}
	}
	for i, s := range c.Sources {
		if u, err := url.Parse(s); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			return fmt.Errorf("sources[%d]: must be an http or https URL", i)
		}
	}
	if c.Device != "" {
		if err := topics.CheckID("device", c.Device); err != nil {
			return err
		}
	}
	if err := topics.CheckTimeZone("time_zone", c.TimeZone); err != nil {
		return err
	}
	if c.Mode != topics.ModeConnected && c.Mode != topics.ModePolling {
		return fmt.Errorf("mode: %q is neither connected nor polling", c.Mode)
	}
	if err := c.Polling.validate(); err != nil {
		return err
	}
	if err := c.Self.validate(); err != nil {
		return err
	}
	if err := c.validateComponents(); err != nil {
		return err
	}
	if err := c.Renewal.validate(); err != nil {
		return err
	}
	if err := c.Conditions.Validate(); err != nil {
		return fmt.Errorf("conditions.%w", err)
	}
	if err := c.Download.Validate(); err != nil {
		return fmt.Errorf("download.%w", err)
	}
	if err := c.Energy.Validate(); err != nil {
		return fmt.Errorf("energy.%w", err)
	}
	if err := c.Peers.Validate(); err != nil {
		return fmt.Errorf("peers.%w", err)
	}
	if err := c.Watchdog.Validate(); err != nil {
		return fmt.Errorf("watchdog.%w", err)
	}
	return c.validateTimes()
}

// defaultHealthURL is Health.URL where the file is silent and the component has an
// address.
const defaultHealthURL = "http://{addr}/healthz"

// validate names the key that is wrong.
func (h *Health) validate() error {
	if h.URL != "none" {
		if err := health.CheckURL("health.url", h.URL); err != nil {
			return fmt.Errorf("%w, nor none", err)
		}
	}
	if err := health.ValidateChecks("health.checks", h.Checks); err != nil {
		return err
	}
	if err := positive([]period{
		{"health.interval", h.Interval}, {"health.timeout", h.Timeout}, {"health.settle", h.Settle}, {"health.total", h.Total},
	}); err != nil {
		return err
	}
	if h.Total < h.Settle {
		return errors.New("health.total: must not be below health.settle")
	}
	return nil
}

// period is a duration with the key that it stands at.
type period struct {
	key   string
	value time.Duration
}

func positive(list []period) error {
	for _, d := range list {
		if d.value <= 0 {
			return fmt.Errorf("%s: must be above 0", d.key)
		}
	}
	return nil
}

// validate names the key that is wrong.
func (b Backoff) validate(key string) error {
	if b.Min <= 0 || b.Max < b.Min {
		return fmt.Errorf("%s: must have 0 < min <= max", key)
	}
	return nil
}

// validate refuses what would keep the component from being launched at all.
func (f *Firmware) validate() error {
	_, port, err := net.SplitHostPort(f.Addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("firmware.addr: %q is not of the form host:port", f.Addr)
	}
	if f.Tries < 1 {
		return errors.New("firmware.tries: must be at least 1")
	}
	if err := errors.Join(positive([]period{{"firmware.grace", f.Grace}}), f.Backoff.validate("firmware.backoff")); err != nil {
		return err
	}
	for i, arg := range f.Args {
		if strings.Contains(arg, "\x00") {
			return fmt.Errorf("firmware.args[%d]: must not contain U+0000", i)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(f.Env)) {
		switch {
		case k == "" || strings.ContainsAny(k, "=\x00"):
			return fmt.Errorf("firmware.env: %q is not a name", k)
		case strings.Contains(f.Env[k], "\x00"):
			return fmt.Errorf("firmware.env.%s: must not contain U+0000", k)
		case strings.HasPrefix(k, "FIRMWARE_") || k == slot.MarkName:
			return fmt.Errorf("firmware.env.%s: is set by the agent", k)
		}
	}
	return nil
}

func (c *Config) validateTimes() error {
	if err := positive([]period{
		{"mqtt.keep_alive", c.MQTT.KeepAlive}, {"mqtt.session_expiry", c.MQTT.SessionExpiry},
		{"mqtt.check_in_timeout", c.MQTT.CheckInTimeout}, {"fetch.stall", c.Fetch.Stall},
		{"polling.interval", c.Polling.Interval}, {"heartbeat", c.Heartbeat},
		{"unmanaged", c.Unmanaged},
	}); err != nil {
		return err
	}
	if c.Fetch.MinRate < 1 {
		return errors.New("fetch.min_rate: must be at least 1")
	}
	if c.Polling.Jitter < 0 {
		return errors.New("polling.jitter: must not be negative")
	}
	for _, d := range []struct {
		key         string
		value, most time.Duration
	}{
		{"mqtt.keep_alive", c.MQTT.KeepAlive, mqttclient.MaxKeepAlive},
		{"mqtt.session_expiry", c.MQTT.SessionExpiry, mqttclient.MaxExpiry},
		// The session outlives twice their sum.
		{"polling.interval", c.Polling.Interval, link.MaxPolling},
		{"polling.jitter", c.Polling.Jitter, link.MaxPolling},
	} {
		if d.value > d.most {
			return fmt.Errorf("%s: must be at most %d s", d.key, d.most/time.Second)
		}
	}
	return errors.Join(c.Backoff.validate("backoff"), c.Retry.validate("retry"), c.Penalty.validate("penalty"))
}
