package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/cli"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/stack"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

func start(t *testing.T, options stack.Options) *stack.Stack {
	t.Helper()
	s, err := stack.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of fleetd's log:\n%s", s.Fleetd.LogTail(60))
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// fetch gets a page of the ops listener.
func fetch(url string) (int, string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(body), err
}

// awaitReadyz waits until readiness names exactly these conditions.
func awaitReadyz(t *testing.T, ops string, want ...string) {
	t.Helper()
	devtest.Eventually(t, time.Minute, fmt.Sprintf("readiness to name %v", want), func() error {
		_, body, err := fetch("http://" + ops + "/readyz")
		if err != nil {
			return err
		}
		var answer struct{ Missing []struct{ Name string } }
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			return err
		}
		names := []string{}
		for _, m := range answer.Missing {
			names = append(names, m.Name)
		}
		if strings.Join(names, " ") != strings.Join(want, " ") {
			return errors.New(body)
		}
		return nil
	})
}

func TestPoisonDoesNotStopIngestion(t *testing.T) {
	s := start(t, stack.Options{})
	ca, err := s.CA()
	if err != nil {
		t.Fatal(err)
	}
	options, err := s.DeviceTLS(ca, "cam-1", "cam-a", "rev-b")
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig, err := certs.ClientTLS(options, certs.ServiceBroker)
	if err != nil {
		t.Fatal(err)
	}
	session, err := mqttclient.Dial(t.Context(), mqttclient.Config{Servers: []string{s.BrokerURL()}, TLS: tlsConfig, ClientID: "cam-1", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Disconnect()
	publish := func(payload string) {
		t.Helper()
		err := session.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus("cam-1"), Payload: []byte(payload), QoS: 1})
		if err != nil {
			t.Fatalf("publish %.80s: %v", payload, err)
		}
	}
	good := func(sequence int64) string {
		raw, err := topics.Encode(topics.Status{
			Schema: 1, Rollout: "r-1", Revision: 1, Cohort: "eu", Component: topics.DefaultComponent, Release: "camera", Attempt: 1,
			State: topics.StateDownloading, From: "1.0.0", Running: "1.0.0", Target: "1.1.0", BootID: "b1",
			Epoch: 1, Sequence: sequence, Clock: topics.ClockTrusted, At: time.Now().UTC().Truncate(time.Second),
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	publish(good(1))
	poison := []string{
		"\x00\xff", "{", strings.Replace(good(2), `"epoch"`, `"detail":"nul \u0000 here","epoch"`, 1),
		strings.Replace(good(3), `"schema":1`, `"schema":99`, 1), strings.Replace(good(4), "downloading", "levitating", 1),
		strings.Replace(good(5), `"sequence":5`, `"sequence":99999999999999999999`, 1),
	}
	for _, p := range poison {
		publish(p)
	}
	publish(good(6))
	devtest.Eventually(t, 0, "both good reports in the history", func() error {
		var history struct{ Items []struct{ Sequence int64 } }
		if err := s.API(t.Context(), "GET", "/v1/devices/cam-1/history", nil, &history); err != nil {
			return err
		}
		if len(history.Items) != 2 || history.Items[0].Sequence != 6 {
			return fmt.Errorf("%+v", history)
		}
		return nil
	})
	devtest.Eventually(t, 0, "the dead letters to be counted", func() error {
		_, body, err := fetch("http://" + s.Fleetd.Addr("ops") + "/metrics")
		want := fmt.Sprintf(`groundswell_ingest_dead_total{group="registry"} %d`, len(poison))
		if err == nil && !strings.Contains(body, want+"\n") {
			err = fmt.Errorf("no %s", want)
		}
		return err
	})
	var kept struct {
		Items []struct {
			Consumer, Topic, Reason string
			Payload                 []byte `json:"payload_b64"`
		}
	}
	if err := s.API(t.Context(), "GET", "/v1/dead-letters", nil, &kept); err != nil || len(kept.Items) != len(poison) {
		t.Fatalf("dead letters %+v, err %v", kept, err)
	}
	for i, d := range kept.Items { // newest first; the broken ones are stored in order
		if want := poison[len(poison)-1-i]; string(d.Payload) != want || d.Reason == "" || d.Consumer != "registry" || d.Topic != topics.DeviceStatus("cam-1") {
			t.Errorf("dead letter %+v, want the payload %.60q", d, want)
		}
	}
	// Nothing comes again: all was acknowledged.
	awaitReadyz(t, s.Fleetd.Addr("ops"))

	t.Run("telemetry has a point of each that decodes", func(t *testing.T) {
		// The one with U+0000 in a text decodes; the text is in no point.
		devtest.Eventually(t, 0, "three points", func() error {
			answer, err := s.Influx.InfluxQL(t.Context(), "groundswell", `SELECT count(device) FROM status WHERE model = 'cam-a'`)
			if err == nil && !strings.Contains(answer, ",3]") {
				err = errors.New(answer)
			}
			return err
		})
	})

	t.Run("the API keeps answering while the broker is away", func(t *testing.T) {
		s.Broker.Kill()
		awaitReadyz(t, s.Fleetd.Addr("ops"), "broker", "uplink", "influx")
		if err := s.API(t.Context(), "GET", "/v1/devices/cam-1", nil, nil); err != nil {
			t.Error(err)
		}
		// And a fleetd that starts meanwhile serves too.
		s.Fleetd.Kill()
		if err := s.RestartFleetd(t.Context()); err != nil {
			t.Fatal(err)
		}
		awaitReadyz(t, s.Fleetd.Addr("ops"), "broker", "uplink", "influx")
		if err := s.API(t.Context(), "GET", "/v1/devices/cam-1", nil, nil); err != nil {
			t.Error(err)
		}
		if err := s.RestartBroker(t.Context()); err != nil {
			t.Fatal(err)
		}
		awaitReadyz(t, s.Fleetd.Addr("ops"))
	})

	t.Run("fleetd waits for a database that is not there yet", func(t *testing.T) {
		if err := s.Fleetd.Stop(20 * time.Second); err != nil {
			t.Fatal(err)
		}
		s.Postgres.Kill()
		started := make(chan error, 1)
		go func() { started <- s.RestartFleetd(t.Context()) }()
		ops := s.Fleetd.Addr("ops") // stays the same
		awaitReadyz(t, ops, "database")
		if err := s.Postgres.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		awaitReadyz(t, ops)
	})
}

func TestDownloadsAreForDevicesThatAreNotRevoked(t *testing.T) {
	s := start(t, stack.Options{WithoutInflux: true})
	ca, err := s.CA()
	if err != nil {
		t.Fatal(err)
	}
	client := func(config *tls.Config) *http.Client {
		return &http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: time.Minute}
	}
	options, err := s.DeviceTLS(ca, "cam-1", "cam-a", "rev-b")
	if err != nil {
		t.Fatal(err)
	}
	config, err := certs.ClientTLS(options, certs.ServiceFleetd)
	if err != nil {
		t.Fatal(err)
	}
	device := client(config)
	get := func(c *http.Client) (int, error) {
		resp, err := c.Get(s.DownloadURL() + "/repository/image/1.root.json")
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}
	if status, err := get(device); err != nil || status != 200 {
		t.Fatalf("device: %d, %v", status, err)
	}
	anonymous, err := certs.AnonymousClientTLS(certs.TLSOptions{Authority: ca.Authority()}, s.TrustDomain, certs.ServiceFleetd)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := get(client(anonymous)); err == nil {
		t.Errorf("without a certificate: %d", status)
	}
	other, err := certs.NewCA(s.TrustDomain, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := other.IssueDevice("cam-1", "cam-a", "rev-b", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	config, err = certs.ClientTLS(certs.TLSOptions{Credential: forged, Authority: ca.Authority()}, certs.ServiceFleetd)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := get(client(config)); err == nil {
		t.Errorf("with a certificate of another authority: %d", status)
	}

	now := time.Now()
	crl, err := ca.SignCRL(2, []certs.Revocation{{Serial: new(big.Int).Set(options.Credential.Certificate.SerialNumber), At: now}}, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := certs.WritePublicFile(filepath.Join(s.Keys, "public", "crl.pem"), crl); err != nil {
		t.Fatal(err)
	}
	// On the connection that is open already, too.
	devtest.Eventually(t, 0, "the revocation", func() error {
		status, err := get(device)
		if err == nil && status != 403 {
			return fmt.Errorf("status %d", status)
		}
		return nil
	})
}

// valid is a configuration that passes Validate.
func valid() Config {
	c := DefaultConfig()
	c.TrustDomain = "fleet.example.org"
	c.Database.URL = "postgres://fleetd:secret@db/fleetd"
	c.API.TLS = TLS{Cert: "a.crt", Key: "a.key"}
	c.API.Tokens.Keys = []string{"token.pub"}
	c.Downloads.TLS = TLS{Cert: "d.crt", Key: "d.key", CA: "ca.crt"}
	c.Broker = Broker{Servers: []string{"mqtts://broker:8883"}, TLS: TLS{Cert: "b.crt", Key: "b.key", CA: "ca.crt"}}
	c.Artifacts.Dir = "/srv/artifacts"
	c.Trust = Trust{ImageRoot: "i", DirectorRoot: "d", DirectorKey: "k", SnapshotKey: "s", TimestampKey: "t"}
	return c
}

func TestAWrongConfigurationNamesItsField(t *testing.T) {
	good := valid()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"trust_domain":             func(c *Config) { c.TrustDomain = "not a domain" },
		"trust.director_key":       func(c *Config) { c.Trust.DirectorKey = "" },
		"database":                 func(c *Config) { c.Database.URLFile = "f" },
		"database.max_connections": func(c *Config) { c.Database.MaxConnections = 1 },
		"api.listen":               func(c *Config) { c.API.Listen = "8443" },
		"api.tls":                  func(c *Config) { c.API.TLS = TLS{} },
		"api.tls.key":              func(c *Config) { c.API.TLS.Key = "" },
		"api.tokens":               func(c *Config) { c.API.Tokens.Keys = nil },
		"api.tokens.audience":      func(c *Config) { c.API.Tokens.Audience = "" },
		"downloads.tls.ca":         func(c *Config) { c.Downloads.TLS.CA = "" },
		"downloads.public_urls[1]": func(c *Config) { c.Downloads.PublicURLs = []string{"https://cdn", "cdn"} },
		"broker.servers":           func(c *Config) { c.Broker.Servers = nil },
		"broker.servers[0]":        func(c *Config) { c.Broker.Servers = []string{"mqtt://broker:1883"} },
		"region":                   func(c *Config) { c.Region = "a b" },
		"broker.regions[0]":        func(c *Config) { c.Broker.Regions = []string{c.Region} },
		"broker.regions[1]":        func(c *Config) { c.Broker.Regions = []string{"us", "us"} },
		"broker.tls.ca":            func(c *Config) { c.Broker.TLS.CA = "" },
		"influx.url":               func(c *Config) { c.Influx.Bucket = "b" },
		"influx.bucket":            func(c *Config) { c.Influx.URL = "http://influx:8086" },
		"influx":                   func(c *Config) { c.Influx = Influx{URL: "http://influx:8086", Bucket: "b", Username: "u"} },
		"artifacts.dir":            func(c *Config) { c.Artifacts.Dir = "" },
		"artifacts.max_bytes":      func(c *Config) { c.Artifacts.MaxBytes = 0 },
		"deltas.per_release":       func(c *Config) { c.Deltas.PerRelease = -1 },
		"deltas.jobs":              func(c *Config) { c.Deltas.Jobs = 100 },
		"deltas.cpus":              func(c *Config) { c.Deltas.CPUs = -1 },
		"deltas.memory":            func(c *Config) { c.Deltas.Memory = 1 << 20 },
		"deltas.timeout":           func(c *Config) { c.Deltas.Timeout = 0 },
		"deltas.coder":             func(c *Config) { c.Deltas.Coder = "gzip" },
		"deltas.publish_every":     func(c *Config) { c.Deltas.PublishEvery = 0 },
		"costs.price_per_gb":       func(c *Config) { c.Costs.PricePerGB = math.NaN() },
		"costs.currency":           func(c *Config) { c.Costs.Currency = "\x1b[1m" },
		"rollout.tick":             func(c *Config) { c.Rollout.Tick = 0 },
		"rollout.keep_transfers":   func(c *Config) { c.Rollout.KeepTransfers = time.Minute },
	} {
		c := valid()
		change(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), want+":") {
			t.Errorf("%s: %v", want, err)
		}
	}
	for _, keep := range []time.Duration{-1, 100_000 * time.Hour} {
		c := valid()
		if c.Rollout.KeepTransfers = keep; c.Validate() == nil {
			t.Errorf("rows are kept for %v", keep)
		}
	}
	ever := valid()
	if ever.Rollout.KeepTransfers = 0; ever.Validate() != nil {
		t.Errorf("rows are kept for ever: %v", ever.Validate())
	}
	if keep := DefaultConfig().Rollout.KeepTransfers; keep != 0 {
		t.Errorf("rows are kept for %v if nobody says so: a replica of the version before counts twice what is gone", keep)
	}
	policyOnly := valid()
	policyOnly.Deltas.Coder = "plain-zstd"
	if err := policyOnly.Validate(); err == nil || !strings.HasPrefix(err.Error(), "deltas.coder:") {
		t.Errorf("a coder for policies only: %v", err)
	}
	plain := valid()
	plain.API.TLS, plain.API.Listen = TLS{}, "127.0.0.1:0"
	if err := plain.Validate(); err != nil {
		t.Errorf("plain HTTP on loopback: %v", err)
	}
}

func TestCheckConfigShowsNoPassword(t *testing.T) {
	file := devtest.Write(t, "fleetd.yaml", `
trust_domain: fleet.example.org
database: {url: "postgres://fleetd:hunter2@db/fleetd"}
api: {listen: "127.0.0.1:0", tokens: {keys: [token.pub]}}
downloads: {tls: {cert: d.crt, key: d.key, ca: ca.crt}}
broker: {servers: ["mqtts://broker:8883"], tls: {cert: b.crt, key: b.key, ca: ca.crt}}
artifacts: {dir: /srv/artifacts}
trust: {image_root: i, director_root: d, director_key: k, snapshot_key: s, timestamp_key: t}
`)
	exec := func(args ...string) (int, string) {
		var out bytes.Buffer
		daemon := cli.Daemon[Config]{Name: "fleetd", Default: DefaultConfig, Run: run}
		code := daemon.Exec(context.Background(), args, cli.Streams{In: os.Stdin, Out: &out, Err: &out})
		return code, out.String()
	}
	code, text := exec("--config", file, "--check-config")
	if code != 0 || !strings.Contains(text, "fleet.example.org") || strings.Contains(text, "hunter2") {
		t.Errorf("%d\n%s", code, text)
	}
	if err := os.WriteFile(file, []byte("databse: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, text := exec("--config", file, "--check-config"); code != 1 || !strings.Contains(text, "databse") {
		t.Errorf("unknown key: %d\n%s", code, text)
	}
}

func TestAForeignCertificateStopsTheStart(t *testing.T) {
	now := time.Now()
	ca, err := certs.NewCA("other.example.org", now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	credential, err := ca.IssueService("fleetd", nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key, authority := filepath.Join(dir, "x.crt"), filepath.Join(dir, "x.key"), filepath.Join(dir, "ca.crt")
	if err := errors.Join(credential.Save(cert, key), certs.WritePublicFile(authority, ca.PEM())); err != nil {
		t.Fatal(err)
	}
	c := valid()
	c.Broker.TLS = TLS{Cert: cert, Key: key, CA: authority}
	c.Downloads.TLS, c.API.TLS = c.Broker.TLS, TLS{}
	var s secrets
	if err := s.loadTLS(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "other.example.org") {
		t.Errorf("err %v", err)
	}
}
