package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/certs"
	"groundswell/internal/mqttclient"
	"groundswell/internal/mqttpeer"
	"groundswell/topics"
)

// A broker with a valid certificate that breaks the protocol, or its promises. The
// agent lives on, nothing on the device changes, and an honest broker finds it.
func TestHostileBroker(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	type conn = *mqttpeer.Conn
	type hook func(c conn, p mqttpeer.Packet) bool
	// at does something in place of the answer to a kind of packet.
	at := func(kind mqttpeer.Kind, do func(c conn, p mqttpeer.Packet)) hook {
		return func(c conn, p mqttpeer.Packet) bool {
			if p.Kind != kind {
				return false
			}
			do(c, p)
			return true
		}
	}
	// after does something once the device's first SUBSCRIBE was answered.
	after := func(do func(c conn)) hook {
		return func(c conn, p mqttpeer.Packet) bool {
			if p.Kind != mqttpeer.Subscribe {
				return false
			}
			_ = c.Suback(p.ID, bytes.Repeat([]byte{1}, len(p.Filters))...)
			do(c)
			return true
		}
	}
	raw := func(data ...byte) func(conn) { return func(c conn) { _ = c.Raw(data) } }
	gone := func(c conn, _ mqttpeer.Packet) { c.Close() }
	ignore := func(conn, mqttpeer.Packet) {}
	limits := func(l mqttpeer.Limits) hook {
		return at(mqttpeer.Connect, func(c conn, _ mqttpeer.Packet) { _ = c.Connack(0, l) })
	}
	flood := func(n int, topic func(i int) string, payload []byte) hook {
		return after(func(c conn) {
			for i := range n {
				if c.Message(topic(i), payload, 0, 0, true) != nil {
					return
				}
			}
		})
	}
	zero, one, ten, qos := uint16(0), uint16(1), uint32(10), byte(0)
	// A PUBLISH on a topic, as bytes, so that the topic may be anything.
	publish := func(topic string, alias uint16) []byte {
		body := binary.BigEndian.AppendUint16(nil, uint16(len(topic)))
		body = append(body, topic...)
		if alias > 0 {
			body = append(body, 3, 0x23, byte(alias>>8), byte(alias))
		} else {
			body = append(body, 0)
		}
		return append([]byte{0x30, byte(len(body))}, body...)
	}
	const anyway = "check-in complete" // it takes no notice
	for _, c := range []struct {
		name string
		hook hook
		says string // in the agent's log
	}{
		{"packet of 200 MB", after(raw(append([]byte{0x30, 0x80, 0x80, 0x80, 0x60}, make([]byte, 1000)...)...)), mqttclient.ErrPacketTooLarge.Error()},
		{"packet length without end", after(raw(0x30, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)), "malformed packet length"},
		{"packet byte by byte", after(func(c conn) {
			if c.Raw([]byte{0x30, 0x7f}) != nil {
				return
			}
			for tick := time.NewTicker(100 * time.Millisecond); c.Raw([]byte{0}) == nil; {
				<-tick.C
			}
		}), "connection to broker lost"},
		{"half a packet and the end", after(func(c conn) { _ = c.Raw([]byte{0x30, 0x7f, 0}); c.Close() }), "connection to broker lost"},
		{"no CONNACK", at(mqttpeer.Connect, ignore), "cannot connect to broker"},
		{"CONNACK of another version", at(mqttpeer.Connect, func(c conn, _ mqttpeer.Packet) { _ = c.Raw([]byte{0x20, 2, 0, 0}) }), "cannot connect to broker"},
		{"CONNACK twice", after(func(c conn) { _ = c.Connack(0, mqttpeer.Limits{}) }), "connection to broker lost"},
		{"refusal", at(mqttpeer.Connect, func(c conn, _ mqttpeer.Packet) { _ = c.Connack(0x88, mqttpeer.Limits{}) }), "cannot connect to broker"},
		{"no SUBACK", at(mqttpeer.Subscribe, ignore), "could not be set up"},
		{"SUBACK that refuses", at(mqttpeer.Subscribe, func(c conn, p mqttpeer.Packet) { _ = c.Suback(p.ID, bytes.Repeat([]byte{0x87}, len(p.Filters))...) }), "could not be set up"},
		{"SUBACK for fewer", at(mqttpeer.Subscribe, func(c conn, p mqttpeer.Packet) { _ = c.Suback(p.ID, 1) }), "could not be set up"},
		{"SUBACK for none", at(mqttpeer.Subscribe, func(c conn, p mqttpeer.Packet) { _ = c.Raw([]byte{0x90, 3, byte(p.ID >> 8), byte(p.ID), 0}) }), "could not be set up"},
		{"PUBACK in place of SUBACK", at(mqttpeer.Subscribe, func(c conn, p mqttpeer.Packet) { _ = c.Puback(p.ID, 0) }), "could not be set up"},
		{"no PUBACK", at(mqttpeer.Publish, ignore), "report not taken yet"},
		{"SUBACK in place of PUBACK", at(mqttpeer.Publish, func(c conn, p mqttpeer.Packet) { _ = c.Suback(p.ID, 0) }), "report not taken yet"},
		{"PUBREC in place of PUBACK", at(mqttpeer.Publish, func(c conn, p mqttpeer.Packet) { _ = c.Raw([]byte{0x50, 2, byte(p.ID >> 8), byte(p.ID)}) }), "report not taken yet"},
		{"PUBACK that refuses for now", at(mqttpeer.Publish, func(c conn, p mqttpeer.Packet) { _ = c.Puback(p.ID, 0x97) }), "report not taken yet"},
		{"PUBACK for what was not sent", func(c conn, p mqttpeer.Packet) bool {
			if p.Kind == mqttpeer.Subscribe {
				for id := range uint16(300) {
					_ = c.Puback(40_000+id, 0)
				}
			}
			return false
		}, anyway},
		{"acknowledgements of QoS 2", func(c conn, p mqttpeer.Packet) bool {
			if p.Kind == mqttpeer.Subscribe {
				_ = c.Raw([]byte{0x50, 2, 7, 7, 0x62, 2, 7, 7, 0x70, 2, 7, 7})
			}
			return false
		}, anyway},
		{"packets that only clients send", func(c conn, p mqttpeer.Packet) bool {
			if p.Kind == mqttpeer.Subscribe {
				_ = c.Raw([]byte{0xc0, 0, 0x82, 8, 0, 1, 0, 0, 2, 'a', 'b', 0})
			}
			return false
		}, anyway},
		{"AUTH", func(c conn, p mqttpeer.Packet) bool {
			if p.Kind == mqttpeer.Subscribe {
				_ = c.Raw([]byte{0xf0, 2, 0x18, 0, 0xf0, 2, 0, 0})
			}
			return false
		}, anyway},
		{"a reserved packet", after(raw(0x00, 0)), "connection to broker lost"},
		{"topic alias that was not set", after(func(c conn) { _ = c.Raw(publish("", 7)) }), "topic that was not asked for|connection to broker lost"},
		{"topic that is empty", after(func(c conn) { _ = c.Raw(publish("", 0)) }), "topic that was not asked for|connection to broker lost"},
		{"topic that is no text", after(func(c conn) { _ = c.Raw(publish("fleet/v1/\xff\xfe\x00", 0)) }), "topic that was not asked for|connection to broker lost"},
		{"topic that climbs", after(func(c conn) { _ = c.Raw(publish("fleet/v1/cohorts/../../etc/manifest", 0)) }), "topic that was not asked for"},
		{"topic of another device", after(func(c conn) { _ = c.Raw(publish("fleet/v1/devices/cam-other/assignment", 0)) }), "message refused|topic that was not asked for"},
		{"uplink topic", after(func(c conn) { _ = c.Raw(publish("fleet/v1/devices/cam-other/status", 0)) }), "topic that was not asked for"},
		{"flood of retained messages on strange topics", flood(20_000, func(i int) string { return fmt.Sprintf("strange/%d", i) }, make([]byte, 512)), "topic that was not asked for"},
		{"flood of cohorts that are not ours", flood(20_000, func(i int) string { return topics.CohortManifest(fmt.Sprintf("c-%d", i)) }, make([]byte, 512)), "not assigned"},
		{"flood of assignments", flood(5_000, func(int) string { return topics.DeviceAssignment("cam-flood-of-assignments") }, []byte("rubbish")), "message refused"},
		{"goodbye at once", after(func(c conn) { _ = c.Bye(0x8e) }), "connection to broker lost"},
		{"gone after CONNECT", at(mqttpeer.Connect, gone), "cannot connect to broker"},
		{"gone after SUBSCRIBE", at(mqttpeer.Subscribe, gone), "connection to broker lost"},
		{"gone after SUBACK", after(func(c conn) { c.Close() }), "connection to broker lost"},
		{"gone after PUBLISH", at(mqttpeer.Publish, gone), "connection to broker lost"},
		{"gone after a ping", at(mqttpeer.Ping, gone), "connection to broker lost"},
		{"no answer to pings", at(mqttpeer.Ping, ignore), "connection to broker lost"},
		{"limit of ten bytes", limits(mqttpeer.Limits{MaximumPacketSize: &ten}), "report not taken yet"},
		{"limit of no message", limits(mqttpeer.Limits{ReceiveMaximum: &zero}), "cannot connect to broker|report not taken yet|check-in complete"},
		{"limit of QoS 0", limits(mqttpeer.Limits{MaximumQoS: &qos}), "report not taken yet|check-in complete"},
		{"keep alive of a second", limits(mqttpeer.Limits{KeepAlive: &one}), anyway},
		{"keep alive of none", limits(mqttpeer.Limits{KeepAlive: &zero}), anyway},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := f.hostileBroker(t, c.hook)
			p := papers{t, f, "cam-" + topicsafe(c.name), "of-" + topicsafe(c.name)}
			d := f.stolenBroker(t, p.device, b, "")
			d.replace(`"]}`, `"], keep_alive: 2s}`)
			b.retain(topics.DeviceAssignment(p.device), p.assignment(1, nil, time.Hour, f.director))
			b.retain(topics.CohortManifest(p.cohort), p.manifest(1, nil, time.Hour, f.director))
			d.start("")
			d.eventually("what it says", func() (err error) {
				for says := range strings.SplitSeq(c.says, "|") {
					if err = d.logged(says); err == nil {
						return nil
					}
				}
				return err
			})
			d.unharmed()
			f.honestAgain(d, b, p.cohort, entry(image), image.SHA256)
			lines := 0
			for line := range strings.Lines(string(must[[]byte](t)(readLog(d)))) {
				if !strings.Contains(line, `"level":"DEBUG"`) {
					lines++
				}
			}
			if lines > 500 {
				t.Errorf("%d lines in its log", lines)
			}
		})
	}
}

// A broker that drops the device again and again, or brings it nothing, is left
// for the next while it is still there, however the device stays in touch.
func TestNextBrokerIsFoundPastAHostileOne(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	for _, c := range []struct {
		name, extra string
		hook        func(*mqttpeer.Conn, mqttpeer.Packet) bool
	}{
		{"connected and dropped", "", func(c *mqttpeer.Conn, p mqttpeer.Packet) bool {
			if p.Kind == mqttpeer.Publish {
				c.Close()
			}
			return p.Kind == mqttpeer.Publish
		}},
		{"polling and dropped", "mode: polling\npolling: {interval: 1h, jitter: 1ms}\n", func(c *mqttpeer.Conn, p mqttpeer.Packet) bool {
			if p.Kind == mqttpeer.Subscribe {
				c.Close()
			}
			return p.Kind == mqttpeer.Subscribe
		}},
		{"polling and given nothing", "mode: polling\npolling: {interval: 1s, jitter: 1ms}\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := f.hostileBroker(t, c.hook)
			id := "cam-" + topicsafe(c.name)
			d := f.stolenBroker(t, id, b, c.extra)
			d.replace(`"]}`, `"], check_in_timeout: 1s}`)
			e := entry(image)
			f.manifest("of-"+id, e)
			f.assign(id, []string{"of-" + id})
			d.start("")
			d.committed(e.Rollout, "1.1.0", image.SHA256)
			if b.connections() == 0 {
				t.Error("it was never at the hostile one")
			}
		})
	}
}

// The certificate is valid, and not that of a broker.
func TestNobodyElsePlaysTheBroker(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	elsewhere := must[*certs.CA](t)(certs.NewCA(domain, time.Now().Add(-time.Hour), 48*time.Hour))
	for _, c := range []struct {
		name string
		make func() (certs.Credential, error)
		want error
	}{
		{"fleetd", func() (certs.Credential, error) { return f.ca.IssueService(certs.ServiceFleetd, nil, time.Hour) }, certs.ErrPeer},
		{"device", func() (certs.Credential, error) { return f.ca.IssueDevice("cam-thief", model, hardware, time.Hour) }, certs.ErrChain},
		{"stranger", func() (certs.Credential, error) { return elsewhere.IssueService(certs.ServiceBroker, nil, time.Hour) }, certs.ErrChain},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config := must2(certs.PublicServerTLS(certs.TLSOptions{Credential: must[certs.Credential](t)(c.make()), Authority: f.ca.Authority()}))(t)
			var read atomic.Int64
			s := must[*mqttpeer.Server](t)(mqttpeer.Listen(config, func(c *mqttpeer.Conn) {
				if _, err := c.Read(); err == nil {
					read.Add(1)
				}
			}))
			t.Cleanup(s.Close)
			d := f.newDevice(t, "cam-"+c.name, "")
			d.replace("mqtts://"+f.broker.Addr("mqtt"), "mqtts://"+s.Addr())
			d.start("")
			d.eventually("the exact error", func() error { return d.logged("cannot connect to broker", c.want.Error()) })
			d.unharmed()
			if read.Load() != 0 {
				t.Error("it said something to it")
			}
		})
	}
}
