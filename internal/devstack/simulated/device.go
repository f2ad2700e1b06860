// Package simulated plays devices: only the wire, no slots and no firmware. The
// end-to-end tests and the benchmark use it where they need many devices, or
// one that does exactly what it is told. What it receives is verified with
// package trust, like on a real device.
package simulated

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"groundswell/certs"
	"groundswell/certs/trust"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// Trusting makes devices that believe what they receive. A real device spends
// its own processor on verifying; in a benchmark a thousand devices share one
// with the platform that is measured.
type Trusting bool

// Device is one simulated device. Its methods may be called from several
// goroutines.
type Device struct {
	ID    string
	fleet *Fleet
	tls   certs.TLSOptions
	// trusting is fixed when the device is made.
	trusting Trusting

	mu       sync.Mutex // guards what follows
	session  *mqttclient.Session
	state    trust.State
	received chan struct{} // closed and replaced on each change below
	// What was accepted, newest of each.
	assignment topics.Assignment
	manifests  map[string]Manifest
	refused    []error
	sequence   int64
}

// Manifest is a verified manifest and when it arrived.
type Manifest struct {
	topics.Manifest
	At time.Time
}

// Device makes a device with a certificate of its own. It is not connected, and
// fleetd knows nothing of it.
func (f *Fleet) Device(id, model string, trusting Trusting) (*Device, error) {
	tls, err := f.stack.DeviceTLS(f.ca, id, model, "rev1")
	if err != nil {
		return nil, err
	}
	state, err := trust.NewState(f.trustDomain, f.imageRoot, f.directorRoot)
	if err != nil {
		return nil, err
	}
	return &Device{ID: id, fleet: f, tls: tls, trusting: trusting, state: state, received: make(chan struct{}), manifests: map[string]Manifest{}}, nil
}

// CheckIn is how long the parts of a check-in took.
type CheckIn struct {
	Dial, TLS time.Duration
	// Total is from the first byte of the TCP connection to the last manifest,
	// Connected from sending CONNECT to it.
	Total, Connected time.Duration
}

// CheckIn connects, reads the assignment and the manifest of each assigned
// cohort, and stays connected. Manifests that it held before do not count: it
// begins with none, as after a restart.
func (d *Device) CheckIn(ctx context.Context) (CheckIn, error) {
	tlsConfig, err := certs.ClientTLS(d.tls, certs.ServiceBroker)
	if err != nil {
		return CheckIn{}, err
	}
	d.mu.Lock()
	d.assignment, d.manifests = topics.Assignment{}, map[string]Manifest{}
	d.mu.Unlock()
	session, err := mqttclient.Dial(ctx, mqttclient.Config{
		Servers: d.fleet.servers, TLS: tlsConfig, ClientID: d.ID, SessionExpiry: time.Hour,
		KeepAlive: 5 * time.Minute, ConnectTimeout: 30 * time.Second, AckTimeout: 30 * time.Second,
		OnMessage: d.receive,
	})
	if err != nil {
		return CheckIn{}, err
	}
	d.mu.Lock()
	d.session = session
	d.mu.Unlock()
	if err := d.readAll(ctx, session); err != nil {
		session.Close()
		return CheckIn{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var last time.Time
	for _, m := range d.manifests {
		if m.At.After(last) {
			last = m.At
		}
	}
	t := session.Timing
	return CheckIn{Dial: t.Dial, TLS: t.TLS, Total: last.Sub(t.Started), Connected: last.Sub(t.Started) - t.Dial - t.TLS}, nil
}

func (d *Device) readAll(ctx context.Context, session *mqttclient.Session) error {
	if err := session.Subscribe(ctx, []mqttclient.Subscription{
		{Filter: topics.DeviceAssignment(d.ID), QoS: 1}, {Filter: topics.DeviceCommand(d.ID), QoS: 1},
	}); err != nil {
		return err
	}
	if err := d.Await(ctx, func(d *Device) bool { return d.assignment.Version > 0 }); err != nil {
		return fmt.Errorf("assignment of %s: %w", d.ID, err)
	}
	d.mu.Lock()
	cohorts := d.assignment.Cohorts
	d.mu.Unlock()
	if len(cohorts) == 0 {
		return fmt.Errorf("%s is in no cohort", d.ID)
	}
	subs := make([]mqttclient.Subscription, len(cohorts))
	for i, c := range cohorts {
		subs[i] = mqttclient.Subscription{Filter: topics.CohortManifest(c), QoS: 1}
	}
	if err := session.Subscribe(ctx, subs); err != nil {
		return err
	}
	return d.Await(ctx, func(d *Device) bool { return len(d.manifests) >= len(cohorts) })
}

// Await waits until cond holds; it is asked again after each message, with the
// device locked.
func (d *Device) Await(ctx context.Context, cond func(*Device) bool) error {
	for {
		d.mu.Lock()
		ok, changed, session := cond(d), d.received, d.session
		d.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-session.Done():
			return session.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *Device) receive(m mqttclient.Message) {
	now := time.Now()
	name, err := topics.Parse(m.Topic)
	d.mu.Lock()
	defer d.mu.Unlock()
	defer func() {
		if err != nil {
			d.refused = append(d.refused, err)
		}
		close(d.received)
		d.received = make(chan struct{})
	}()
	if err != nil {
		return
	}
	switch name.Kind {
	case topics.KindManifest:
		var body topics.Manifest
		if d.trusting {
			body, err = unverified(m.Payload, topics.DecodeManifest)
		} else {
			d.state, body, err = d.state.Manifest(m.Payload, name.ID, now)
		}
		if err == nil {
			d.manifests[name.ID] = Manifest{body, now}
		}
	case topics.KindAssignment:
		var body topics.Assignment
		if d.trusting {
			body, err = unverified(m.Payload, topics.DecodeAssignment)
		} else {
			d.state, body, err = d.state.Assignment(m.Payload, d.ID, now)
		}
		if err == nil {
			d.assignment = body
		}
	}
}

// unverified takes the body out of its envelope.
func unverified[T any](raw []byte, decode func([]byte) (T, error)) (T, error) {
	var envelope struct {
		Signed struct {
			Body json.RawMessage `json:"groundswell"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(raw, &envelope); err != nil {
		var none T
		return none, err
	}
	return decode(envelope.Signed.Body)
}

// Manifest is the newest manifest of a cohort, to be called within Await or
// after it; false when there is none.
func (d *Device) Manifest(cohort string) (Manifest, bool) {
	m, ok := d.manifests[cohort]
	return m, ok
}

// Held returns copies of the newest manifests and what was refused so far.
func (d *Device) Held() (manifests map[string]Manifest, refused []error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	manifests = map[string]Manifest{}
	for c, m := range d.manifests {
		manifests[c] = m
	}
	return manifests, append([]error(nil), d.refused...)
}

// Session is the current connection; nil before the first.
func (d *Device) Session() *mqttclient.Session {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.session
}

// ErrNotConnected: CheckIn has not succeeded yet.
var ErrNotConnected = errors.New("simulated device is not connected")

// Report publishes a status with the device's next sequence number and waits
// for the PUBACK. It returns the sequence number. The fields that the caller
// left empty are filled in.
func (d *Device) Report(ctx context.Context, s topics.Status) (int64, error) {
	d.mu.Lock()
	d.sequence++
	s.Sequence = d.sequence
	session := d.session
	d.mu.Unlock()
	if session == nil {
		return s.Sequence, ErrNotConnected
	}
	s.Schema = topics.Schema
	if s.Component == "" {
		s.Component = topics.DefaultComponent
	}
	if s.Epoch == 0 {
		s.Epoch = 1
	}
	if s.Attempt == 0 {
		s.Attempt = 1
	}
	if s.BootID == "" {
		s.BootID = "boot-1"
	}
	if s.Running == "" {
		s.Running = s.From
	}
	s.Clock = topics.ClockTrusted
	s.At = time.Now().UTC().Truncate(time.Second)
	payload, err := topics.Encode(s)
	if err != nil {
		return s.Sequence, err
	}
	return s.Sequence, session.Publish(ctx, mqttclient.Publication{Topic: topics.DeviceStatus(d.ID), Payload: payload, QoS: 1})
}

// Beat publishes a heartbeat that says what runs, and waits for the PUBACK.
func (d *Device) Beat(ctx context.Context, version string) error {
	d.mu.Lock()
	d.sequence++
	sequence, session := d.sequence, d.session
	d.mu.Unlock()
	if session == nil {
		return ErrNotConnected
	}
	payload, err := topics.Encode(topics.Heartbeat{
		Schema: topics.Schema, Versions: map[string]string{topics.DefaultComponent: version}, BootID: "boot-1", Mode: topics.ModeConnected,
		Agent: "0.0.1", UptimeSeconds: 1, Epoch: 1, Sequence: sequence, Clock: topics.ClockTrusted, At: time.Now().UTC().Truncate(time.Second),
	})
	if err != nil {
		return err
	}
	return session.Publish(ctx, mqttclient.Publication{Topic: topics.DeviceHeartbeat(d.ID), Payload: payload, QoS: 1})
}

// Disconnect says goodbye, if it is connected.
func (d *Device) Disconnect() {
	if s := d.Session(); s != nil {
		s.Disconnect()
	}
}
