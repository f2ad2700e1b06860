package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/cli"
	"groundswell/internal/config"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

const domain = "fleet.test"

// process is the built broker as an operator starts it.
type process struct {
	t    *testing.T
	ca   *certs.CA
	spec devstack.Spec
	// addresses are where it is reached, if not where it says that it listens.
	addresses map[string]string
	*devstack.Process
}

// Addr is where it is reached under that name.
func (p *process) Addr(name string) string {
	if p.addresses != nil {
		return p.addresses[name]
	}
	return p.Process.Addr(name)
}

// startBroker builds and starts it; more is added to its configuration.
func startBroker(t *testing.T, more string) *process {
	t.Helper()
	p := newSite(t).broker("node-1", "127.0.0.1:0", more)
	p.start()
	return p
}

// site is a directory with what brokers of one fleet share: authority,
// certificate, revocation list.
type site struct {
	t   *testing.T
	ca  *certs.CA
	crl []byte
	dir string
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func newSite(t *testing.T) *site {
	t.Helper()
	ca, err := certs.NewCA(domain, time.Now().Add(-time.Hour), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, ca: ca, dir: t.TempDir()}
	credential, err := ca.IssueService(certs.ServiceBroker, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if s.crl, err = ca.SignCRL(1, nil, time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		ca.Save(s.path("ca.crt"), s.path("ca.key")), credential.Save(s.path("tls.crt"), s.path("tls.key")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// broker builds and configures one that was not started.
func (s *site) broker(node, listen, more string) *process {
	s.t.Helper()
	program, err := devstack.Program(s.t.Context(), "./broker")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := certs.WritePublicFile(s.path(node+".crl"), s.crl); err != nil {
		s.t.Fatal(err)
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		s.t.Fatal(err)
	}
	err = os.WriteFile(s.path(node+".yaml"), fmt.Appendf(nil, `
node: %s
trust_domain: %s
listen: %s
tls: {cert: %s, key: %s, ca: %s, crl: %s}
data_dir: %s
ops: {listen: "%s:0"}
addresses_file: %s
%s`, node, domain, listen, s.path("tls.crt"), s.path("tls.key"), s.path("ca.crt"), s.path(node+".crl"),
		s.path(node), host, s.path(node+".json"), more), 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	return &process{t: s.t, ca: s.ca, spec: devstack.Spec{
		Name: node, Path: program, Args: []string{"--config", s.path(node + ".yaml")},
		AddressesFile: s.path(node + ".json"), LogFile: s.path(node + ".log"),
	}}
}

func (p *process) start() {
	p.t.Helper()
	p.Process = devtest.Start(p.t, p.spec)
}

func (p *process) client(credential certs.Credential, id string, onMessage func(mqttclient.Message)) (*mqttclient.Session, error) {
	return p.clientOn([]string{"mqtts://" + p.Addr("mqtt")}, credential, id, onMessage)
}

// clientOn connects to the first of the servers that lets it in.
func (p *process) clientOn(servers []string, credential certs.Credential, id string, onMessage func(mqttclient.Message)) (*mqttclient.Session, error) {
	return p.dial(credential, mqttclient.Config{Servers: servers, ClientID: id, OnMessage: onMessage, ReceiveMaximum: 1024})
}

func (p *process) dial(credential certs.Credential, cfg mqttclient.Config) (*mqttclient.Session, error) {
	if cfg.AckTimeout == 0 {
		cfg.AckTimeout = 30 * time.Second // longer than the broker waits for its store, and for another region
	}
	var err error
	if cfg.TLS, err = certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: p.ca.Authority()}, certs.ServiceBroker); err != nil {
		return nil, err
	}
	return mqttclient.Dial(p.t.Context(), cfg)
}

func (p *process) device(id string) (*mqttclient.Session, error) {
	return p.deviceOn([]string{"mqtts://" + p.Addr("mqtt")}, id)
}

func (p *process) deviceOn(servers []string, id string) (*mqttclient.Session, error) {
	credential, err := p.ca.IssueDevice(id, "cam-a", "r1", time.Hour)
	if err != nil {
		return nil, err
	}
	return p.clientOn(servers, credential, id, nil)
}

// ready waits until the node says that it is.
func (p *process) ready() {
	p.t.Helper()
	devtest.Eventually(p.t, 2*time.Minute, "a node to be ready", p.readiness)
}

// readiness is nil, or what /readyz says is missing.
func (p *process) readiness() error {
	client := http.Client{Timeout: 10 * time.Second} // a machine that boots does not answer
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + p.Addr("ops") + "/readyz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", body)
	}
	return nil
}

func (p *process) service(id string, onMessage func(mqttclient.Message)) (*mqttclient.Session, error) {
	credential, err := p.ca.IssueService("fleetd", nil, time.Hour)
	if err != nil {
		return nil, err
	}
	return p.client(credential, id, onMessage)
}

func (p *process) fleetd(id string, onMessage func(mqttclient.Message)) *mqttclient.Session {
	p.t.Helper()
	var s *mqttclient.Session
	devtest.Eventually(p.t, 0, id+" to be let in", func() (err error) { // nodes refuse while they elect
		s, err = p.service(id, onMessage)
		return err
	})
	p.t.Cleanup(func() { s.Close() })
	return s
}

// TestNothingAcknowledgedIsLostByAKill: many devices report without a pause
// while the broker is killed and started again and again; whatever was
// acknowledged reaches the group afterwards.
func TestNothingAcknowledgedIsLostByAKill(t *testing.T) {
	p := startBroker(t, "shards: 2")
	const devices = 8
	y := newTally(t)
	report := func(ctx context.Context, i int) {
		device := fmt.Sprintf("cam-%d", i)
		s, err := p.device(device)
		if err != nil {
			return // the broker is down
		}
		defer s.Close()
		var wg sync.WaitGroup
		for range 16 { // under way at once
			wg.Go(func() {
				for ctx.Err() == nil && y.report(ctx, s, device) == nil {
				}
			})
		}
		wg.Wait()
	}
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range devices {
			wg.Go(func() { report(ctx, i) })
		}
		before := y.count()
		devtest.Eventually(t, 2*time.Minute, "reports", devtest.True(func() bool { return y.count() > before+3000 }))
		p.Kill()
		cancel()
		wg.Wait()
		p.start()
	}
	y.collect(p)
}

// TestRetainedVersionsSurviveAKill: the newest acknowledged manifest is there
// afterwards, and an older one is still refused.
func TestRetainedVersionsSurviveAKill(t *testing.T) {
	p := startBroker(t, "")
	topic := topics.CohortManifest("a")
	retain := func(s *mqttclient.Session, version int) error {
		return s.Publish(t.Context(), mqttclient.Publication{
			Topic: topic, Payload: fmt.Append(nil, version), QoS: 1, Retain: true,
			Properties: []mqttclient.Property{{Key: topics.PropVersion, Value: strconv.Itoa(version)}},
		})
	}
	s := p.fleetd("fleetd", nil)
	for v := 1; v <= 20; v++ {
		if err := retain(s, v); err != nil {
			t.Fatal(err)
		}
	}
	p.Kill()
	p.start()
	got := make(chan string, 8)
	s = p.fleetd("fleetd", func(m mqttclient.Message) { got <- string(m.Payload) })
	if code, ok := mqttclient.Refused(retain(s, 19)); !ok || code != 0x83 {
		t.Fatalf("version 19: 0x%02x", code)
	}
	if err := s.Subscribe(t.Context(), []mqttclient.Subscription{{Filter: topic, QoS: 1}}); err != nil {
		t.Fatal(err)
	}
	select {
	case v := <-got:
		if v != "20" {
			t.Fatalf("got %s", v)
		}
	case <-time.After(devtest.Patience):
		t.Fatal("nothing is retained")
	}
}

func TestReadinessMetricsAndOrderlyStop(t *testing.T) {
	p := startBroker(t, "")
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + p.Addr("ops") + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	devtest.Eventually(t, 0, "readiness", func() error {
		code, body := get("/readyz")
		if code != 200 {
			return errors.New(body)
		}
		return nil
	})
	s, err := p.device("cam-1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus("cam-1"), Payload: []byte("x"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	_ = s.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus("cam-2"), Payload: []byte("x"), QoS: 1}) // refused
	devtest.Eventually(t, 0, "metrics", func() error {
		_, body := get("/metrics")
		for _, want := range []string{
			"broker_connections 1", `broker_stored_total{kind="status"} 1`, `broker_group_backlog{group="registry"} 3`,
			`broker_refused_total{action="publish",reason="not-authorized"} 1`, "broker_store_seconds_count",
		} {
			if !strings.Contains(body, want) {
				return fmt.Errorf("no %q", want)
			}
		}
		return nil
	})
	// The refusal stands in the log, for the auditor.
	audited := false
	for _, line := range strings.Split(p.LogTail(100), "\n") {
		var entry struct {
			Audit                   bool
			Action, Topic, Identity string
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Audit && entry.Action == "publish" {
			audited = entry.Topic == topics.DeviceStatus("cam-2") && strings.HasSuffix(entry.Identity, "/device/cam-1")
		}
	}
	if !audited {
		t.Error("the refusal was not audited")
	}
	if err := p.Stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
}

func TestConfigurationIsCheckedBeforeAnythingIsTouched(t *testing.T) {
	good := "trust_domain: fleet.test\ntls: {cert: c, key: k, ca: a}\ndata_dir: d\n"
	for text, want := range map[string]string{
		good:                                         "",
		good + "sync: sometimes":                     "sync",
		good + "shards: 0":                           "shards",
		good + "groups: []":                          "groups",
		good + "groups: [a, a]":                      "groups[1]",
		good + "groups: [a.b]":                       "groups[0]",
		good + "node: \"-\"":                         "node",
		good + "surprise: 1":                         "surprise",
		good + "limits: {nothing: 1}":                "nothing",
		good + "limits: {max_connections: 0}":        "limits.max_connections",
		good + "limits: {max_keep_alive: 20h}":       "limits.max_keep_alive",
		good + "limits: {uplink_bytes: 10}":          "limits.uplink_bytes",
		good + "region: a b":                         "region",
		good + "gateways: {routes: [\"a:1\"]}":       "gateways.remotes",
		good + "gateways: {remotes: [{region: us}]}": "gateways.remotes[0].servers",
		"tls: {cert: c, key: k, ca: a}":              "trust_domain",
		"trust_domain: fleet.test\ntls: {cert: c}":   "tls.key",
	} {
		path := devtest.Write(t, "broker.yaml", text)
		cfg := DefaultConfig()
		err := config.Load(path, &cfg)
		if err == nil {
			err = cfg.Validate()
		}
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: got %v, want %s named", text, err, want)
		}
	}
	var out, errs strings.Builder
	code := cli.Daemon[Config]{Name: "broker", Default: DefaultConfig}.Exec(t.Context(),
		[]string{"--config", devtest.Write(t, "broker.yaml", good), "--check-config"}, cli.Streams{Out: &out, Err: &errs})
	if code != 0 || !strings.Contains(out.String(), "sync: always") {
		t.Errorf("check-config: %d %s%s", code, out.String(), errs.String())
	}
}

// TestAKilledBrokerTellsWhoWasConnected: a device that does not come back must
// not count as connected for ever.
func TestAKilledBrokerTellsWhoWasConnected(t *testing.T) {
	p := startBroker(t, "shards: 1")
	var mu sync.Mutex
	var got []string
	lost := map[time.Time]bool{} // when stays was lost; what comes again says the same time
	fleetd := func(id string) {
		s := p.fleetd(id, func(m mqttclient.Message) {
			presence, err := topics.DecodePresence(m.Payload)
			if err != nil {
				t.Errorf("%s: %v", m.Topic, err)
			}
			name, err := topics.Parse(m.Topic)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf("%s %v %s", name.ID, presence.Connected, presence.Reason))
			if name.ID == "stays" && presence.Reason == "lost" {
				lost[presence.At] = true
			}
		})
		if err := s.Subscribe(t.Context(), []mqttclient.Subscription{{Filter: topics.Share(topics.GroupRegistry, topics.Uplink), QoS: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	has := func(want string) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return slices.Contains(got, want) }
	}
	fleetd("fleetd-a")
	for _, id := range []string{"gone", "stays"} {
		s, err := p.device(id)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		devtest.Eventually(t, 0, id+" connected", devtest.True(has(id+" true ")))
		if id == "gone" {
			s.Close()
			devtest.Eventually(t, 0, "gone gone", devtest.True(has("gone false error")))
		}
	}
	p.Kill()
	p.start()
	fleetd("fleetd-b")
	devtest.Eventually(t, 0, "the lost connection", devtest.True(has("stays false lost")))
	if has("gone false lost")() {
		t.Error("a device whose end was known was reported as lost")
	}
	// The kill may come before fleetd-b's acknowledgement: then fleetd-c gets the
	// same report once more, which is not another report. Another one would say
	// another second.
	first := time.Now().Truncate(time.Second)
	devtest.Eventually(t, 0, "the next second", devtest.True(func() bool { return time.Now().After(first.Add(time.Second)) }))
	p.Kill()
	p.start()
	fleetd("fleetd-c")
	last, err := p.device("last")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { last.Close() })
	devtest.Eventually(t, 0, "a later connect", devtest.True(has("last true ")))
	mu.Lock()
	defer mu.Unlock()
	if len(lost) != 1 {
		t.Errorf("one lost connection was reported as of %d times: %v", len(lost), lost)
	}
}
