package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
	*devstack.Process
}

// startBroker builds and starts it; more is added to its configuration.
func startBroker(t *testing.T, more string) *process {
	t.Helper()
	ca, err := certs.NewCA(domain, time.Now().Add(-time.Hour), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	credential, err := ca.IssueService(certs.ServiceBroker, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	list, err := ca.SignCRL(1, nil, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		ca.Save(in("ca.crt"), in("ca.key")), credential.Save(in("tls.crt"), in("tls.key")),
		certs.WritePublicFile(in("crl.pem"), list),
		os.WriteFile(in("broker.yaml"), fmt.Appendf(nil, `
node: node-1
trust_domain: %s
listen: 127.0.0.1:0
tls: {cert: %s, key: %s, ca: %s, crl: %s}
data_dir: %s
ops: {listen: "127.0.0.1:0"}
addresses_file: %s
%s`, domain, in("tls.crt"), in("tls.key"), in("ca.crt"), in("crl.pem"), in("data"), in("addresses.json"), more), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	program, err := devstack.Program(t.Context(), "./broker")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, ca: ca, spec: devstack.Spec{
		Name: "broker", Path: program, Args: []string{"--config", in("broker.yaml")},
		AddressesFile: in("addresses.json"), LogFile: in("broker.log"),
	}}
	p.start()
	return p
}

func (p *process) start() {
	p.t.Helper()
	p.Process = devtest.Start(p.t, p.spec)
}

func (p *process) client(credential certs.Credential, id string, onMessage func(mqttclient.Message)) (*mqttclient.Session, error) {
	tlsConfig, err := certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: p.ca.Authority()}, certs.ServiceBroker)
	if err != nil {
		return nil, err
	}
	return mqttclient.Dial(p.t.Context(), mqttclient.Config{
		Servers: []string{"mqtts://" + p.Addr("mqtt")}, TLS: tlsConfig, ClientID: id, OnMessage: onMessage,
		ReceiveMaximum: 1024,
	})
}

func (p *process) device(id string) (*mqttclient.Session, error) {
	credential, err := p.ca.IssueDevice(id, "cam-a", "r1", time.Hour)
	if err != nil {
		return nil, err
	}
	return p.client(credential, id, nil)
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
	var mu sync.Mutex
	acked := map[string][]int{} // by device
	total := 0
	var next [devices]atomic.Int64
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
				for ctx.Err() == nil {
					n := int(next[i].Add(1))
					if s.Publish(ctx, mqttclient.Publication{Topic: topics.DeviceStatus(device), Payload: fmt.Append(nil, n), QoS: 1}) != nil {
						return // perhaps stored, perhaps not
					}
					mu.Lock()
					acked[device] = append(acked[device], n)
					total++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return total }
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range devices {
			wg.Go(func() { report(ctx, i) })
		}
		before := count()
		devtest.Eventually(t, 0, "reports", devtest.True(func() bool { return count() > before+3000 }))
		p.Kill()
		cancel()
		wg.Wait()
		p.start()
	}
	got := map[string]map[int]bool{}
	subscribed := p.fleetd("fleetd-registry", func(m mqttclient.Message) {
		name, err := topics.Parse(m.Topic)
		if err != nil || name.Kind != topics.KindStatus {
			return
		}
		n, err := strconv.Atoi(string(m.Payload))
		if err != nil {
			t.Errorf("got %q", m.Payload)
		}
		mu.Lock()
		defer mu.Unlock()
		if got[name.ID] == nil {
			got[name.ID] = map[int]bool{}
		}
		got[name.ID][n] = true
	})
	if err := subscribed.Subscribe(t.Context(), []mqttclient.Subscription{{Filter: topics.Share(topics.GroupRegistry, topics.Uplink), QoS: 1}}); err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, 0, "everything acknowledged", func() error {
		mu.Lock()
		defer mu.Unlock()
		for device, list := range acked {
			for _, n := range list {
				if !got[device][n] {
					return fmt.Errorf("%s: %d of %d", device, n, len(list))
				}
			}
		}
		return nil
	})
	t.Logf("%d reports were acknowledged", total)
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
		good:                                       "",
		good + "sync: sometimes":                   "sync",
		good + "shards: 0":                         "shards",
		good + "groups: []":                        "groups",
		good + "groups: [a, a]":                    "groups[1]",
		good + "groups: [a.b]":                     "groups[0]",
		good + "node: \"-\"":                       "node",
		good + "surprise: 1":                       "surprise",
		good + "limits: {nothing: 1}":              "nothing",
		good + "limits: {max_connections: 0}":      "limits.max_connections",
		good + "limits: {max_keep_alive: 20h}":     "limits.max_keep_alive",
		good + "limits: {uplink_bytes: 10}":        "limits.uplink_bytes",
		"tls: {cert: c, key: k, ca: a}":            "trust_domain",
		"trust_domain: fleet.test\ntls: {cert: c}": "tls.key",
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
	before := len(got)
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
	if slices.Contains(got[before:], "stays false lost") {
		t.Error("a lost connection was reported at every start")
	}
}
