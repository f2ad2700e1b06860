package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/certs/trust"
	"groundswell/internal/mqttpeer"
	"groundswell/topics"
)

// hostileBroker plays a broker whose certificate was stolen. What its hook does
// not handle it does as an honest broker would, but for storing anything.
type hostileBroker struct {
	*mqttpeer.Server
	t *testing.T
	// hook sees each packet first, CONNECT included. May be nil.
	hook func(c *mqttpeer.Conn, p mqttpeer.Packet) (handled bool)

	mu       sync.Mutex // guards what follows
	retained map[string][]byte
	got      []mqttpeer.Packet // publishes, in order
	live     *mqttpeer.Conn    // the newest connection
	greeted  int
	packet   uint16
}

func (f *fleet) hostileBroker(t *testing.T, hook func(*mqttpeer.Conn, mqttpeer.Packet) bool) *hostileBroker {
	t.Helper()
	credential := must[certs.Credential](t)(f.ca.IssueService(certs.ServiceBroker, nil, time.Hour))
	b := &hostileBroker{t: t, hook: hook, retained: map[string][]byte{}}
	config := must2(certs.ServerTLS(certs.TLSOptions{Credential: credential, Authority: f.ca.Authority()}))(t)
	b.Server = must[*mqttpeer.Server](t)(mqttpeer.Listen(config, b.serve))
	t.Cleanup(b.Close)
	return b
}

func (b *hostileBroker) serve(c *mqttpeer.Conn) {
	for {
		p, err := c.Read()
		if err != nil {
			return
		}
		if p.Kind == mqttpeer.Connect {
			b.mu.Lock()
			b.live = c
			b.greeted++
			b.mu.Unlock()
		}
		if b.hook != nil && b.hook(c, p) {
			continue
		}
		if b.honest(c, p) != nil {
			return
		}
	}
}

func (b *hostileBroker) honest(c *mqttpeer.Conn, p mqttpeer.Packet) error {
	switch p.Kind {
	case mqttpeer.Connect:
		return c.Connack(0, mqttpeer.Limits{})
	case mqttpeer.Publish:
		b.mu.Lock()
		b.got = append(b.got, p)
		b.mu.Unlock()
		if p.ID > 0 {
			return c.Puback(p.ID, 0)
		}
	case mqttpeer.Subscribe:
		codes := make([]byte, len(p.Filters))
		for i := range codes {
			codes[i] = 1
		}
		if err := c.Suback(p.ID, codes...); err != nil {
			return err
		}
		for _, topic := range p.Filters {
			b.mu.Lock()
			payload, ok := b.retained[topic]
			b.mu.Unlock()
			if ok {
				if err := c.Message(topic, payload, 1, b.next(), true); err != nil {
					return err
				}
			}
		}
	case mqttpeer.Unsubscribe:
		return c.Unsuback(p.ID, make([]byte, len(p.Filters))...)
	case mqttpeer.Ping:
		return c.Pong()
	case mqttpeer.Disconnect:
		return errors.New("it left")
	}
	return nil
}

func (b *hostileBroker) next() uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.packet++; b.packet == 0 {
		b.packet = 1
	}
	return b.packet
}

func (b *hostileBroker) retain(topic string, payload []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retained[topic] = payload
}

// message sends to whoever is connected.
func (b *hostileBroker) message(topic string, payload []byte) {
	b.t.Helper()
	b.mu.Lock()
	c := b.live
	b.mu.Unlock()
	if err := c.Message(topic, payload, 1, b.next(), false); err != nil {
		b.t.Fatal(err)
	}
}

// published are the payloads that came on a topic.
func (b *hostileBroker) published(topic string) [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list [][]byte
	for _, p := range b.got {
		if p.Topic == topic {
			list = append(list, p.Payload)
		}
	}
	return list
}

func (b *hostileBroker) connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.greeted
}

// tells is nil when the device has reported, in a log, a text with all parts.
func (b *hostileBroker) tells(device string, parts ...string) error {
	var said []string
	for _, raw := range b.published(topics.DeviceLog(device)) {
		l, err := topics.DecodeLog(raw)
		if err != nil {
			return err
		}
		all := true
		for _, part := range parts {
			all = all && strings.Contains(l.Text, part)
		}
		if all {
			return nil
		}
		said = append(said, l.Text)
	}
	return fmt.Errorf("no %q in what it told: %q", parts, said)
}

// reports are the statuses that came of a device.
func (b *hostileBroker) reports(device string) []topics.Status {
	b.t.Helper()
	var list []topics.Status
	for _, raw := range b.published(topics.DeviceStatus(device)) {
		list = append(list, must[topics.Status](b.t)(topics.DecodeStatus(raw)))
	}
	return list
}

// stolenBroker is a device whose brokers are the hostile one first and then the real one.
func (f *fleet) stolenBroker(t *testing.T, id string, b *hostileBroker, extra string) *device {
	t.Helper()
	d := f.newDevice(t, id, extra)
	d.replace(`servers: ["`, `servers: ["mqtts://`+b.Addr()+`", "`)
	return d
}

// papers are what a director signs for one device and its cohort.
type papers struct {
	t      testing.TB
	f      *fleet
	device string
	cohort string
}

// manifest signs, and does not publish.
func (p papers) manifest(version int64, change func(*topics.Manifest), expires time.Duration, key *trust.Key) []byte {
	p.t.Helper()
	pin := p.f.pin
	m := topics.Manifest{
		Schema: topics.Schema, Kind: string(topics.KindManifest), TrustDomain: domain, Cohort: p.cohort,
		Version: version, Issued: time.Now(), Entries: []topics.Entry{}, Images: &pin,
	}
	if change != nil {
		change(&m)
	}
	return must[[]byte](p.t)(trust.SignManifest(m, time.Now().Add(expires), key))
}

func (p papers) assignment(version int64, change func(*topics.Assignment), expires time.Duration, key *trust.Key) []byte {
	p.t.Helper()
	a := topics.Assignment{
		Schema: topics.Schema, Kind: string(topics.KindAssignment), TrustDomain: domain, Device: p.device,
		Version: version, Issued: time.Now(), Cohorts: []string{p.cohort},
	}
	if change != nil {
		change(&a)
	}
	return must[[]byte](p.t)(trust.SignAssignment(a, time.Now().Add(expires), key))
}

func (p papers) command(version int64, change func(*topics.Command), expires time.Duration, key *trust.Key) []byte {
	p.t.Helper()
	c := topics.Command{
		Schema: topics.Schema, Kind: string(topics.KindCommand), TrustDomain: domain, Device: p.device,
		Version: version, Issued: time.Now(), ID: "attack", Action: topics.CommandReport,
	}
	if change != nil {
		change(&c)
	}
	return must[[]byte](p.t)(trust.SignCommand(c, time.Now().Add(expires), key))
}

// forge changes the signed part of metadata in a way that no code of ours would,
// and signs it with a stolen key.
func forge(t testing.TB, raw []byte, key *trust.Key, change func(signed map[string]any)) []byte {
	t.Helper()
	var doc struct {
		Signed map[string]any `json:"signed"`
	}
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	change(doc.Signed)
	// Of ASCII without control characters and <, > and &, this is the canonical form.
	signed := must[[]byte](t)(json.Marshal(doc.Signed))
	return fmt.Appendf(nil, `{"signatures":[{"keyid":%q,"sig":"%x"}],"signed":%s}`, key.ID(), ed25519.Sign(private(t, key), signed), signed)
}

// private is the key itself, by way of its file.
func private(t testing.TB, key *trust.Key) ed25519.PrivateKey {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := key.Save(path, nil); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(must[[]byte](t)(os.ReadFile(path)))
	parsed := must[any](t)(x509.ParsePKCS8PrivateKey(block.Bytes))
	return parsed.(ed25519.PrivateKey)
}

func readLog(d *device) ([]byte, error) { return os.ReadFile(d.path("agent.log")) }
