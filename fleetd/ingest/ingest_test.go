package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/fleetd/ingest/influx"
	"groundswell/fleetd/store"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/internal/ops"
	"groundswell/topics"
)

func config(t *testing.T) Config {
	return Config{
		Servers: []string{"mqtt://127.0.0.1:1"}, ClientID: "test", Metrics: NewMetrics(ops.NewRegistry()),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

var stored = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func heartbeat(device string, sequence int64, metrics map[string]float64) mqttclient.Message {
	raw, err := topics.Encode(topics.Heartbeat{
		Schema: 1, Versions: map[string]string{topics.DefaultComponent: "1.0.0"}, BootID: "b1", Mode: topics.ModeConnected,
		Agent: "0.1.0", Metrics: metrics, Epoch: 1, Sequence: sequence, Clock: topics.ClockTrusted, At: stored,
	})
	if err != nil {
		panic(err) // the test's own mistake
	}
	return message(topics.DeviceHeartbeat(device), raw, sequence)
}

// message is stamped as the broker stamps it.
func message(topic string, payload []byte, sequence int64) mqttclient.Message {
	return mqttclient.Message{Topic: topic, Payload: payload, QoS: 1, Properties: []mqttclient.Property{
		{Key: topics.PropShard, Value: "3"}, {Key: topics.PropSequence, Value: fmt.Sprint(sequence)},
		{Key: topics.PropStored, Value: fmt.Sprint(stored.UnixMilli())},
		{Key: topics.PropModel, Value: "cam-a"}, {Key: topics.PropHardware, Value: "rev-b"},
	}}
}

// shelf is a registry that may be down.
type shelf struct {
	mu      sync.Mutex
	down    bool
	regions map[string]string
	asked   int
	dead    []store.UplinkRecord
}

var errDown = errors.New("down")

func (s *shelf) Regions(_ context.Context, devices []string) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked += len(devices)
	if s.down {
		return nil, errDown
	}
	return s.regions, nil
}

func (s *shelf) DeadLetter(_ context.Context, _ string, r store.UplinkRecord, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return errDown
	}
	s.dead = append(s.dead, r)
	return nil
}

// start runs the loop of a group without a broker.
func start(t *testing.T, g *group) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.loop(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func newTelemetry(t *testing.T, server *devstack.Influx, database string, s *shelf) *Telemetry {
	t.Helper()
	client, err := influx.New(influx.Config{URL: server.URL(), Bucket: database + "/autogen"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	telemetry, err := NewTelemetry(config(t), client, s)
	if err != nil {
		t.Fatal(err)
	}
	return telemetry
}

func counted(t *testing.T, server *devstack.Influx, database, query string, want int) {
	t.Helper()
	devtest.Eventually(t, 0, "the points", func() error {
		answer, err := server.InfluxQL(context.Background(), database, query)
		if err != nil {
			return err
		}
		if !strings.Contains(answer, fmt.Sprintf(",%d]", want)) {
			return fmt.Errorf("want %d, got %s", want, answer)
		}
		return nil
	})
}

func TestEveryPointFollowsAnOutageOfInflux(t *testing.T) {
	server := devtest.OwnInflux(t)
	if err := server.CreateDatabase(context.Background(), "fleet"); err != nil {
		t.Fatal(err)
	}
	s := &shelf{regions: map[string]string{"cam-1": "eu"}}
	telemetry := newTelemetry(t, server, "fleet", s)
	start(t, telemetry.group)

	telemetry.group.receive(heartbeat("cam-1", 1, nil))
	counted(t, server, "fleet", `SELECT count(device) FROM heartbeat`, 1)
	server.Kill()
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		for n := int64(2); n <= 3000; n++ {
			telemetry.group.receive(heartbeat("cam-1", n, nil))
		}
	}()
	// The outage is noticed, and no point is let go of meanwhile.
	devtest.Eventually(t, 0, "a failed attempt", func() error {
		telemetry.group.mu.Lock()
		defer telemetry.group.mu.Unlock()
		if telemetry.group.failing.IsZero() {
			return errors.New("not yet")
		}
		return nil
	})
	if err := server.Restart(context.Background()); err != nil {
		t.Fatal(err)
	}
	<-fed
	counted(t, server, "fleet", `SELECT count(device) FROM heartbeat WHERE region = 'eu' AND "shard" = '3' AND version = '1.0.0'`, 3000)
	if len(s.dead) > 0 {
		t.Errorf("%d dead letters", len(s.dead))
	}
}

func TestAPointThatNeverFitsIsPutAsideAndTheOthersStored(t *testing.T) {
	server, database := devtest.Influx(t)
	other, err := influx.New(influx.Config{URL: server.URL(), Bucket: database + "/autogen"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	// Somebody else wrote the field as a text.
	if _, err := other.Write(context.Background(), []influx.Point{{
		Measurement: "heartbeat", Fields: map[string]any{"metric_heat": "hot"}, Time: stored,
	}}); err != nil {
		t.Fatal(err)
	}
	s := &shelf{}
	telemetry := newTelemetry(t, server, database, s)
	start(t, telemetry.group)
	for n := int64(1); n <= 10; n++ {
		var metrics map[string]float64
		if n == 4 {
			metrics = map[string]float64{"heat": 41.5}
		}
		telemetry.group.receive(heartbeat("cam-1", n, metrics))
	}
	telemetry.group.receive(message("no/such/topic", []byte("{}"), 11))
	telemetry.group.receive(message(topics.DeviceStatus("cam-1"), []byte("not JSON"), 12))
	telemetry.group.receive(message(topics.DeviceLog("cam-1"), []byte("{}"), 13))
	telemetry.group.receive(heartbeat("cam-1", 14, nil))
	counted(t, server, database, `SELECT count(device) FROM heartbeat WHERE region = 'unknown'`, 10)
	devtest.Eventually(t, 0, "the dead letter", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.dead) != 1 || s.dead[0].Sequence != 4 {
			return fmt.Errorf("dead letters: %+v", s.dead)
		}
		return nil
	})
}

func TestTelemetryDoesNotWaitForPostgres(t *testing.T) {
	server, database := devtest.Influx(t)
	s := &shelf{regions: map[string]string{"cam-1": "eu"}, down: true}
	telemetry := newTelemetry(t, server, database, s)
	start(t, telemetry.group)
	telemetry.group.receive(heartbeat("cam-1", 1, nil))
	counted(t, server, database, `SELECT count(device) FROM heartbeat WHERE region = 'unknown'`, 1)
	s.mu.Lock()
	s.down = false
	s.mu.Unlock()
	telemetry.group.receive(heartbeat("cam-1", 2, nil))
	counted(t, server, database, `SELECT count(device) FROM heartbeat WHERE region = 'eu'`, 1)
	telemetry.group.receive(heartbeat("cam-1", 3, nil))
	counted(t, server, database, `SELECT count(device) FROM heartbeat WHERE region = 'eu'`, 2)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked != 2 {
		t.Errorf("the region was asked for %d times, want 2: once while it was down, once after", s.asked)
	}
}

// flaky is a registry that fails a few times.
type flaky struct {
	mu       sync.Mutex
	failures int
	attempts [][]int64
	applied  []int64
}

func (f *flaky) ApplyUplink(_ context.Context, batch []store.UplinkRecord) ([]store.UplinkResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var sequences []int64
	for _, r := range batch {
		sequences = append(sequences, r.Sequence)
	}
	f.attempts = append(f.attempts, sequences)
	if f.failures > 0 {
		f.failures--
		return nil, errDown
	}
	f.applied = append(f.applied, sequences...)
	return make([]store.UplinkResult, len(batch)), nil
}

func TestABatchIsTriedUntilItIsStoredAndOrderHolds(t *testing.T) {
	to := &flaky{failures: 3}
	registry, err := NewRegistry(config(t), to)
	if err != nil {
		t.Fatal(err)
	}
	start(t, registry.group)
	const messages = 1500
	for n := int64(1); n <= messages; n++ {
		registry.group.receive(heartbeat("cam-1", n, nil))
	}
	devtest.Eventually(t, 0, "all messages", func() error {
		to.mu.Lock()
		defer to.mu.Unlock()
		if len(to.applied) < messages {
			return fmt.Errorf("%d applied", len(to.applied))
		}
		return nil
	})
	for i, n := range to.applied {
		if n != int64(i+1) {
			t.Fatalf("message %d was applied in the place of %d", n, i+1)
		}
	}
	for _, again := range to.attempts[1:4] {
		if fmt.Sprint(again) != fmt.Sprint(to.attempts[0]) {
			t.Errorf("the batch changed between two attempts: %v, then %v", to.attempts[0], again)
		}
	}
}

// counting is a registry that finds the same in each record.
type counting struct{ found store.UplinkResult }

func (c counting) ApplyUplink(_ context.Context, batch []store.UplinkRecord) ([]store.UplinkResult, error) {
	return slices.Repeat([]store.UplinkResult{c.found}, len(batch)), nil
}

func TestWhatPeersDidWrongIsCounted(t *testing.T) {
	metrics := ops.NewRegistry()
	cfg := config(t)
	cfg.Metrics = NewMetrics(metrics)
	registry, err := NewRegistry(cfg, counting{store.UplinkResult{Outcome: store.Applied, PeerFaults: topics.PeerFaults{Wrong: 1, Failed: 2, Away: 3}}})
	if err != nil {
		t.Fatal(err)
	}
	start(t, registry.group)
	for n := range int64(2) {
		registry.group.receive(heartbeat("cam-1", n+1, nil))
	}
	devtest.Eventually(t, 0, "the counters", func() error {
		w := httptest.NewRecorder()
		metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		for _, want := range []string{`{kind="wrong"} 2`, `{kind="failed"} 4`, `{kind="away"} 6`} {
			if !strings.Contains(w.Body.String(), "groundswell_peer_faults_total"+want+"\n") {
				return errors.New("no " + want)
			}
		}
		return nil
	})
}

func TestAMissingStampIsNoReasonToStop(t *testing.T) {
	for _, value := range []string{"", "x", "-5", "99999999999999999999"} {
		m := mqttclient.Message{Topic: topics.DeviceStatus("cam-1"), Properties: []mqttclient.Property{
			{Key: topics.PropStored, Value: value}, {Key: topics.PropSequence, Value: value}, {Key: topics.PropShard, Value: value},
		}}
		if r := recordOf(&m); r.Sequence != 0 || r.Shard != 0 || time.Since(r.Stored).Abs() > time.Minute {
			t.Errorf("%q: %+v", value, r)
		}
	}
}
