package publish_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/certs/trust"
	"groundswell/fleetd/publish"
	"groundswell/fleetd/store/storetest"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// platform is a real broker, a real database, and real keys.
type platform struct {
	*storetest.World
	dir    string
	node   string
	more   map[string]any // settings of the broker
	to     publish.Config // regions of the publisher
	broker *devstack.Process
	listen string
	tls    certs.TLSOptions // fleetd's
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	p := newKeys(t)
	p.startBroker("data")
	return p
}

// newKeys is a platform without a broker.
func newKeys(t *testing.T) *platform {
	t.Helper()
	key, err := trust.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	p := &platform{World: storetest.New(t, publish.NewSigner(key)), dir: t.TempDir(), node: "b1", listen: devtest.FreeAddresses(t, 1)[0]}
	ca := storetest.Must(certs.NewCA(storetest.TrustDomain, time.Now(), 24*time.Hour))
	if err := os.WriteFile(p.path("ca.crt"), ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	broker := storetest.Must(ca.IssueService(certs.ServiceBroker, []string{"127.0.0.1"}, time.Hour))
	if err := broker.Save(p.path("broker.crt"), p.path("broker.key")); err != nil {
		t.Fatal(err)
	}
	fleetd := storetest.Must(ca.IssueService(certs.ServiceFleetd, []string{"127.0.0.1"}, time.Hour))
	p.tls = certs.TLSOptions{Credential: fleetd, Authority: ca.Authority()}
	return p
}

func (p *platform) path(name string) string { return filepath.Join(p.dir, name) }

// startBroker starts the broker with a data directory, always on the same port.
func (p *platform) startBroker(data string) {
	p.T.Helper()
	cfg := map[string]any{
		"node": p.node, "trust_domain": storetest.TrustDomain, "listen": p.listen, "data_dir": p.path(data), "addresses_file": p.path(p.node + ".json"),
		"tls": map[string]any{"cert": p.path("broker.crt"), "key": p.path("broker.key"), "ca": p.path("ca.crt")},
		"ops": map[string]any{"listen": "127.0.0.1:0"},
	}
	maps.Copy(cfg, p.more)
	text := storetest.Must(json.Marshal(cfg))
	if err := os.WriteFile(p.path(p.node+".yaml"), text, 0o600); err != nil {
		p.T.Fatal(err)
	}
	program := storetest.Must(devstack.Program(p.T.Context(), "./broker"))
	p.broker = devtest.Start(p.T, devstack.Spec{Name: p.node, Path: program, Args: []string{"--config", p.path(p.node + ".yaml")}, AddressesFile: p.path(p.node + ".json")})
}

// publisher runs a publisher until stop is called.
func (p *platform) publisher() (pub *publish.Publisher, stop func()) {
	p.T.Helper()
	cfg := p.to
	var regions []string
	if cfg.Region != "" {
		regions = append([]string{cfg.Region}, cfg.Regions...)
	}
	cfg.Store, cfg.Servers = p.Open(regions...), []string{"mqtts://" + p.listen}
	cfg.TLS, cfg.Poll = storetest.Must(certs.ClientTLS(p.tls, certs.ServiceBroker)), 100*time.Millisecond
	pub, err := publish.New(cfg)
	if err != nil {
		p.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(p.T.Context())
	done := make(chan error, 1)
	go func() { done <- pub.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				p.T.Error(err)
			}
		})
	}
	p.T.Cleanup(stop)
	return pub, stop
}

// seen is a subscriber's record of what came on each topic, in order.
type seen struct {
	mu       sync.Mutex // guards what follows
	versions map[string][]int64
	payload  map[string][]byte
	retained map[string]bool
	notes    chan string // topics, dropped when full
}

// watch subscribes to a filter, as fleetd may.
func (p *platform) watch(filter string) *seen {
	p.T.Helper()
	s := &seen{versions: map[string][]int64{}, payload: map[string][]byte{}, retained: map[string]bool{}, notes: make(chan string, 1024)}
	session, err := mqttclient.Dial(p.T.Context(), mqttclient.Config{Servers: []string{"mqtts://" + p.listen}, ClientID: fmt.Sprint("fleetd-watch-", time.Now().UnixNano()),
		TLS: storetest.Must(certs.ClientTLS(p.tls, certs.ServiceBroker)), CleanStart: true, OnMessage: func(m mqttclient.Message) {
			text, _ := m.Property(topics.PropVersion)
			version, _ := strconv.ParseInt(text, 10, 64) // 0: a command has none
			s.mu.Lock()
			s.versions[m.Topic] = append(s.versions[m.Topic], version)
			s.payload[m.Topic], s.retained[m.Topic] = m.Payload, m.Retained
			s.mu.Unlock()
			select {
			case s.notes <- m.Topic:
			default:
			}
		}})
	if err != nil {
		p.T.Fatal(err)
	}
	p.T.Cleanup(session.Close)
	if err := session.Subscribe(p.T.Context(), []mqttclient.Subscription{{Filter: filter, QoS: 1}}); err != nil {
		p.T.Fatal(err)
	}
	return s
}

// mustMatch waits until the broker retains, for every cohort and device, what
// the database holds, and nothing is left to do.
func (p *platform) mustMatch() {
	p.T.Helper()
	devtest.Eventually(p.T, 0, "broker and database to be the same", func() error {
		stats, err := p.Stats(p.T.Context())
		if err != nil || stats.Outbox.Pending > 0 {
			return fmt.Errorf("%d in the outbox, %v", stats.Outbox.Pending, err)
		}
		return nil
	})
	for kind, filter := range map[topics.Kind]string{topics.KindManifest: topics.AllManifests, topics.KindAssignment: topics.AllAssignments} {
		s := p.watch(filter)
		devtest.Eventually(p.T, 0, "broker and database to be the same", func() error {
			stored, err := p.SignedAll(p.T.Context(), kind, "", 1000)
			if err != nil {
				return err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, want := range stored {
				topic := topics.Name{Kind: kind, ID: want.ID}.String()
				if !bytes.Equal(s.payload[topic], want.Bytes) {
					return fmt.Errorf("%s: the broker has %v, the database %d", topic, s.versions[topic], want.Version)
				}
			}
			return nil
		})
	}
}

// grew fails the test when a topic's version ever went back.
func (s *seen) grew(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, versions := range s.versions {
		for i := 1; i < len(versions); i++ {
			if versions[i] <= versions[i-1] {
				t.Errorf("%s went from %d to %d", topic, versions[i-1], versions[i])
			}
		}
	}
}
