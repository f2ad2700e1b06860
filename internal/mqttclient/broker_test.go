package mqttclient_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// fleet is a real broker and the authority that its clients' certificates come
// from.
type fleet struct {
	t      *testing.T
	ca     *certs.CA
	config map[string]any
	file   string
	broker *devstack.Process
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	ca, err := certs.NewCA("fleet.test", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	credential, err := ca.IssueService("broker", []string{"127.0.0.1"}, time.Hour)
	if err == nil {
		err = credential.Save(at("broker.crt"), at("broker.key"))
	}
	if err == nil {
		err = ca.Save(at("ca.crt"), at("ca.key"))
	}
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, ca: ca, file: at("broker.yaml"), config: map[string]any{
		"trust_domain": "fleet.test", "listen": devtest.FreeAddresses(t, 1)[0], "data_dir": at("data"), "sync": "100ms",
		"tls":            map[string]string{"cert": at("broker.crt"), "key": at("broker.key"), "ca": at("ca.crt")},
		"addresses_file": at("addresses.json"), "ops": map[string]string{"listen": "127.0.0.1:0"},
	}}
	f.start()
	return f
}

func (f *fleet) start() {
	f.t.Helper()
	path, err := devstack.Program(f.t.Context(), "./broker")
	if err != nil {
		f.t.Fatal(err)
	}
	data, err := json.Marshal(f.config)
	if err == nil {
		err = os.WriteFile(f.file, data, 0o600)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	f.broker = devtest.Start(f.t, devstack.Spec{Name: "broker", Path: path, Args: []string{"--config", f.file},
		AddressesFile: f.config["addresses_file"].(string)})
}

func (f *fleet) connection(id string, credential certs.Credential, err error) mqttclient.Config {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
	tlsConfig, err := certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: f.ca.Authority()}, certs.ServiceBroker)
	if err != nil {
		f.t.Fatal(err)
	}
	return mqttclient.Config{Servers: []string{"mqtts://" + f.broker.Addr("mqtt")}, TLS: tlsConfig, ClientID: id,
		SessionExpiry: time.Hour, ConnectTimeout: 30 * time.Second, AckTimeout: 30 * time.Second,
		Backoff: mqttclient.Backoff{Min: 10 * time.Millisecond, Max: 200 * time.Millisecond}}
}

func (f *fleet) device(id string) mqttclient.Config {
	c, err := f.ca.IssueDevice(id, "m1", "a", time.Hour)
	return f.connection(id, c, err)
}

func (f *fleet) fleetd(id string) mqttclient.Config {
	c, err := f.ca.IssueService("fleetd", nil, time.Hour)
	return f.connection(id, c, err)
}

// collector gathers what a group receives, and acknowledges it.
type collector struct {
	mu  sync.Mutex
	got map[string]int // payload -> times
}

func (c *collector) add(m mqttclient.Message) {
	if m.Topic == topics.DeviceStatus("cam-1") { // the broker reports presence too
		c.mu.Lock()
		c.got[string(m.Payload)]++
		c.mu.Unlock()
	}
	_ = m.Ack() // lost connection: it comes again
}

func (c *collector) missing(want int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.got) < want {
		return fmt.Errorf("%d of %d arrived", len(c.got), want)
	}
	return nil
}

// TestAcknowledgedReportsArriveOverTheKillOfTheBroker: what Publish returned nil
// for is delivered to the group, whatever happens to the broker meanwhile.
func TestAcknowledgedReportsArriveOverTheKillOfTheBroker(t *testing.T) {
	f := newFleet(t)
	run := func(cfg mqttclient.Config) *mqttclient.Client {
		c, err := mqttclient.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return c
	}
	group := &collector{got: map[string]int{}}
	receiver := f.fleetd("fleetd-1")
	receiver.ManualAck, receiver.ReceiveMaximum = true, 256
	receiver.OnMessage = group.add
	receiver.OnUp = func(ctx context.Context, c *mqttclient.Client, _ bool) error {
		return c.Subscribe(ctx, []mqttclient.Subscription{{Filter: topics.Share(topics.GroupRegistry, topics.Uplink), QoS: 1}})
	}
	run(receiver)
	device := run(f.device("cam-1"))

	const reports = 60
	for i := range reports {
		if i == reports/2 {
			f.broker.Kill()
			f.start()
		}
		payload := fmt.Sprintf(`{"n":%d}`, i)
		devtest.Eventually(t, 0, "the report's acknowledgement", func() error {
			return device.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus("cam-1"), Payload: []byte(payload), QoS: 1})
		})
	}
	devtest.Eventually(t, 0, "every report", func() error { return group.missing(reports) })
}

func TestBrokerRefusesForeignTopicsByName(t *testing.T) {
	f := newFleet(t)
	s, err := mqttclient.Dial(t.Context(), f.device("cam-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Disconnect()
	if s.Timing.TLS <= 0 || s.Timing.Connect <= 0 {
		t.Errorf("timing %+v", s.Timing)
	}
	err = s.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus("cam-2"), Payload: []byte("{}"), QoS: 1})
	if code, ok := mqttclient.Refused(err); !ok || code != mqttclient.CodeNotAuthorized {
		t.Errorf("publishing for another device: %v", err)
	}
	err = s.Subscribe(t.Context(), []mqttclient.Subscription{{Filter: topics.DeviceAssignment("cam-2"), QoS: 1}})
	if code, ok := mqttclient.Refused(err); !ok || code != mqttclient.CodeNotAuthorized {
		t.Errorf("subscribing to what is another device's: %v", err)
	}
}
