package mqtt

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/broker/cluster"
	"groundswell/certs"
	"groundswell/internal/mqttclient"
	"groundswell/internal/ops"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

const domain = "fleet.test"

// authority is one CA for all tests; the two groups of every broker are
// registry and telemetry.
var authority = sync.OnceValue(func() *certs.CA {
	ca, err := certs.NewCA(domain, time.Now().Add(-time.Hour), 24*time.Hour)
	if err != nil {
		panic(err)
	}
	return ca
})

// node is a broker with a real store, real TLS and a real socket.
type node struct {
	t       testing.TB
	cfg     Config
	store   cluster.Config
	crl     string
	edge    *Broker
	stored  *cluster.Cluster
	stop    func()
	crashed bool

	registry *ops.Registry
	log      *slog.Logger // nil: the test's own, with -v
}

type option func(*node)

func withLimits(change func(*Limits)) option { return func(n *node) { change(&n.cfg.Limits) } }
func withStore(change func(*cluster.Config)) option {
	return func(n *node) { change(&n.store) }
}

// startNode starts a broker that ends with the test.
func startNode(t testing.TB, options ...option) *node {
	t.Helper()
	n := newNode(t, options...)
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

// newNode is a broker that was not started.
func newNode(t testing.TB, options ...option) *node {
	t.Helper()
	n := &node{
		t:   t,
		cfg: Config{Node: "node-1", TrustDomain: domain, Listen: "127.0.0.1:0", Limits: DefaultLimits()},
		store: cluster.Config{
			Region: cluster.DefaultRegion, Node: "node-1", Dir: t.TempDir(), Sync: cluster.Sync{Interval: time.Second}, Shards: 1,
			Groups:         []string{topics.GroupRegistry, topics.GroupTelemetry},
			MaxUplinkBytes: 64 << 20, MaxRetainedBytes: 16 << 20, MaxInboxBytes: 16 << 20, MaxInboxPerTopic: 4096, MaxPending: 4096, StoreTimeout: 10 * time.Second,
		},
		crl: filepath.Join(t.TempDir(), "crl.pem"),
	}
	for _, o := range options {
		o(n)
	}
	n.revoke(1)
	return n
}

// start starts the broker on what is stored.
func (n *node) start() {
	n.t.Helper()
	log := slog.New(slog.NewTextHandler(testWriter{n.t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if !testing.Verbose() {
		log = slog.New(slog.DiscardHandler)
	}
	if n.log != nil {
		log = n.log
	}
	credential, err := authority().IssueService(certs.ServiceBroker, nil, time.Hour)
	if err != nil {
		n.t.Fatal(err)
	}
	crl, err := certs.OpenCRLFile(n.crl, authority().Authority(), log, func() { n.edge.RevocationsChanged() })
	if err != nil {
		n.t.Fatal(err)
	}
	tlsConfig, err := certs.ServerTLS(certs.TLSOptions{Credential: credential, Authority: authority().Authority(), Revocations: crl})
	if err != nil {
		n.t.Fatal(err)
	}
	reg := ops.NewRegistry()
	n.crashed = false
	n.stored = cluster.New(n.store, reg, log)
	if err := n.stored.Open(context.Background()); err != nil {
		n.t.Fatal(err)
	}
	n.registry = reg
	n.edge = New(n.cfg, tlsConfig, crl, n.stored, reg, log)
	if err := n.edge.Listen(); err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = n.edge.Run(ctx) })
	wg.Go(func() { _ = crl.Run(ctx) })
	n.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if !n.crashed {
			n.stored.Close()
		}
	})
}

// crash stops the broker when it cannot store anything any more: to the others it
// is as if it had been killed.
func (n *node) crash() {
	n.t.Helper()
	n.crashed = true
	n.stored.Close()
	n.stop()
}

// restart stops the broker and starts it on the same data.
func (n *node) restart() {
	n.t.Helper()
	n.stop()
	n.start()
}

// revoke writes a revocation list; number must grow.
func (n *node) revoke(number int64, revoked ...certs.Revocation) {
	n.t.Helper()
	list, err := authority().SignCRL(number, revoked, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(n.crl, list, 0o644); err != nil {
		n.t.Fatal(err)
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(p))
	return len(p), nil
}

func deviceCredential(t testing.TB, id string) certs.Credential {
	t.Helper()
	c, err := authority().IssueDevice(id, "cam-a", "r1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func serviceCredential(t testing.TB, name string) certs.Credential {
	t.Helper()
	c, err := authority().IssueService(name, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// peer is a connected MQTT 5 client that keeps what it received.
type peer struct {
	*mqttclient.Session
	t        testing.TB
	received chan mqttclient.Message
}

// config is how a client with that credential connects.
func (n *node) config(credential certs.Credential, clientID string) mqttclient.Config {
	n.t.Helper()
	tlsConfig, err := certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: authority().Authority()}, certs.ServiceBroker)
	if err != nil {
		n.t.Fatal(err)
	}
	return mqttclient.Config{
		Servers: []string{"mqtts://" + n.edge.Addr()}, TLS: tlsConfig, ClientID: clientID,
		AckTimeout: 30 * time.Second, ConnectTimeout: 30 * time.Second,
	}
}

// dial connects; change may be nil.
func (n *node) dial(credential certs.Credential, clientID string, change func(*mqttclient.Config)) *peer {
	n.t.Helper()
	p := &peer{t: n.t, received: make(chan mqttclient.Message, 1<<16)}
	cfg := n.config(credential, clientID)
	cfg.OnMessage = func(m mqttclient.Message) { p.received <- m }
	if change != nil {
		change(&cfg)
	}
	n.unlessElecting(func() (code byte) {
		s, err := mqttclient.Dial(n.t.Context(), cfg)
		if code, _ = mqttclient.Refused(err); err != nil && !n.electing(code) {
			n.t.Fatalf("connect %s: %v", clientID, err)
		}
		p.Session = s
		return code
	})
	s := p.Session
	n.t.Cleanup(func() { s.Close() })
	return p
}

// electing says whether a node of several refuses with that code because their store does
// not answer in time: they elect, as they may when one of them has just ended or begun, or
// the machine is busy. A client comes again then.
func (n *node) electing(code byte) bool {
	return n.store.Peering != nil && code == packets.ErrServerUnavailable.Code
}

// unlessElecting does something that is refused with a code, or not, again and again while
// the nodes elect.
func (n *node) unlessElecting(do func() (code byte)) {
	n.t.Helper()
	eventually(n.t, "an end of the election", func() bool { return !n.electing(do()) })
}

func (n *node) device(id string) *peer { return n.dial(deviceCredential(n.t, id), id, nil) }

func (n *node) fleetd(clientID string) *peer {
	return n.dial(serviceCredential(n.t, "fleetd"), clientID, nil)
}

func (p *peer) subscribe(filters ...string) {
	p.t.Helper()
	if err := p.trySubscribe(filters...); err != nil {
		p.t.Fatalf("subscribe: %v", err)
	}
}

func (p *peer) trySubscribe(filters ...string) error {
	var subs []mqttclient.Subscription
	for _, f := range filters {
		subs = append(subs, mqttclient.Subscription{Filter: f, QoS: 1})
	}
	return p.Subscribe(p.t.Context(), subs)
}

func (p *peer) publish(topic, payload string) {
	p.t.Helper()
	if err := p.Publish(p.t.Context(), mqttclient.Publication{Topic: topic, Payload: []byte(payload), QoS: 1}); err != nil {
		p.t.Fatalf("publish %s: %v", topic, err)
	}
}

// retain publishes a retained message of a version.
func (p *peer) retain(topic string, version int64, payload string) error {
	return p.Publish(p.t.Context(), mqttclient.Publication{
		Topic: topic, Payload: []byte(payload), QoS: 1, Retain: true,
		Properties: []mqttclient.Property{{Key: topics.PropVersion, Value: strconv.FormatInt(version, 10)}},
	})
}

func (p *peer) mustRetain(topic string, version int64, payload string) {
	p.t.Helper()
	if err := p.retain(topic, version, payload); err != nil {
		p.t.Fatalf("retain %s: %v", topic, err)
	}
}

const patience = 30 * time.Second

// soon is a limit that a test waits for, within which a client connects also on a busy machine.
const soon = 5 * time.Second

// next returns the next message, or fails the test.
func (p *peer) next() mqttclient.Message {
	p.t.Helper()
	select {
	case m := <-p.received:
		return m
	case <-time.After(patience):
		p.t.Fatal("no message came")
		return mqttclient.Message{}
	}
}

// nextOf returns the next message on a topic, dropping others.
func (p *peer) nextOf(topic string) mqttclient.Message {
	p.t.Helper()
	for {
		if m := p.next(); m.Topic == topic {
			return m
		}
	}
}

// awaitRouted returns when every message that was retained before has reached
// the sessions. A retained message is acknowledged when it is stored, and is
// handed on afterwards, in order: so what is put last comes through last.
func (n *node) awaitRouted() {
	n.t.Helper()
	p := n.fleetd("fleetd-marker")
	topic := topics.CohortManifest("marker")
	version := time.Now().UnixNano()
	p.subscribe(topic)
	p.mustRetain(topic, version, "marker")
	for {
		m := p.next()
		if got, _ := m.Property(topics.PropVersion); got == strconv.FormatInt(version, 10) {
			break
		}
	}
	before, _ := n.edge.counts()
	p.Close()
	eventually(n.t, "the marker's reader gone", func() bool { c, _ := n.edge.counts(); return c < before })
}

// awaitWaiting waits until so many messages wait for a client that is away.
func (n *node) awaitWaiting(client string, want int) {
	n.t.Helper()
	eventually(n.t, "messages that wait", func() bool {
		n.edge.mu.Lock()
		cl := n.edge.clients[client]
		n.edge.mu.Unlock()
		cl.mu.Lock()
		defer cl.mu.Unlock()
		return cl.session.Waiting() == want
	})
}

func (p *peer) assign(device string, version int64, cohorts string) {
	p.t.Helper()
	p.mustRetain(topics.DeviceAssignment(device), version, assignment(cohorts))
}

// assignment is as much of a signed assignment as the broker reads.
func assignment(cohorts string) string {
	return fmt.Sprintf(`{"signatures":[],"signed":{"_type":"targets","groundswell":{"kind":"assignment","cohorts":[%s]}}}`, cohorts)
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("in vain waited for: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// metric is the value of one line of the node's metrics, 0 if there is none.
func (n *node) metric(name string) float64 {
	n.t.Helper()
	w := httptest.NewRecorder()
	n.registry.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			var v float64
			if _, err := fmt.Sscan(rest, &v); err != nil {
				n.t.Fatal(err)
			}
			return v
		}
	}
	return 0
}
