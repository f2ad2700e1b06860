//go:build long

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/netns"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// startNetwork starts three brokers that are one, each in a network namespace of
// its own.
func startNetwork(t *testing.T) nodes {
	t.Helper()
	s := newSite(t)
	var routes []string
	for n := range 3 {
		addNode(t, n+1)
		routes = append(routes, net.JoinHostPort(fmt.Sprint(peerNet, n+1), "6222"))
	}
	var all nodes
	for n := range 3 {
		p := s.broker(nodeName(n+1), net.JoinHostPort(fmt.Sprint(clientNet, n+1), "8883"), fmt.Sprintf(
			"cluster: {name: test, listen: %q, routes: [\"%s\"]}\nshards: 2\n", routes[n], strings.Join(routes, `", "`)))
		on := netns.Command(t.Context(), t, nodeName(n+1), append([]string{p.spec.Path}, p.spec.Args...)...)
		p.spec.Path, p.spec.Args = on.Path, on.Args[1:]
		all = append(all, p)
	}
	all.start()
	return all
}

// TestANodeThatIsCutOffRefusesAndHeals: the network between the nodes is cut
// around one of them, then around each of them, while devices reach all of
// them. Without a majority a node takes nothing and says so; two nodes go on; and
// when the network is back, so is everything, by itself.
func TestANodeThatIsCutOffRefusesAndHeals(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	const devices = 30
	all := startNetwork(t)
	for _, p := range all {
		p.ready()
	}
	f := &fleet{tally: newTally(t), nodes: all}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	f.report(ctx, devices, 20*time.Millisecond)
	more := func(what string) {
		t.Helper()
		before := f.count()
		devtest.Eventually(t, 2*time.Minute, what, devtest.True(func() bool { return f.count() > before+10*devices }))
	}
	more("reports")
	for i, p := range all {
		probe := probeOn(t, p)
		plug(t, i+1, false)
		devtest.Eventually(t, 2*time.Minute, "the node to say that it is cut off", func() error { return unready(p) })
		refuses(t, p, probe)
		more(fmt.Sprintf("reports without node %d", i+1))
		for _, other := range all {
			if other != p {
				other.ready()
				takes(t, other)
			}
		}
		if err := unready(p); err != nil {
			t.Errorf("node %d, while it is cut off: %v", i+1, err)
		}
		plug(t, i+1, true)
		p.ready()
		takes(t, p)
		t.Logf("node %d was cut off: %d acknowledged", i+1, f.count())
	}

	var probes []*mqttclient.Session
	for _, p := range all {
		probes = append(probes, probeOn(t, p))
	}
	for i := range all {
		plug(t, i+1, false)
	}
	for i, p := range all {
		devtest.Eventually(t, 2*time.Minute, "every node to say that it is cut off", func() error { return unready(p) })
		refuses(t, p, probes[i])
	}
	for i := range all {
		plug(t, i+1, true)
	}
	for _, p := range all {
		p.ready()
		takes(t, p)
	}
	more("reports after all were cut off")
	stop()
	f.working.Wait()
	f.collect(all[2])
}

// probeOn connects a device to a node, for what the node says later. It waits
// longer for an answer than the node does for the store.
func probeOn(t *testing.T, p *process) (s *mqttclient.Session) {
	t.Helper()
	id := "probe-" + p.spec.Name
	credential, err := p.ca.IssueDevice(id, "cam-a", "r1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, time.Minute, "a device to be let in", func() (err error) {
		s, err = p.dial(credential, mqttclient.Config{Servers: []string{"mqtts://" + p.Addr("mqtt")}, ClientID: id, AckTimeout: time.Minute})
		return err
	})
	t.Cleanup(func() { s.Close() })
	return s
}

// unready is nil if /readyz answers that the store is missing.
func unready(p *process) error {
	switch err := p.readiness(); {
	case err == nil:
		return errors.New("it says that it is ready")
	case !strings.Contains(err.Error(), "store"):
		return fmt.Errorf("it does not name the store: %w", err)
	default:
		return nil
	}
}

// refuses: a node answers no, in MQTT's words, to who is connected and to who
// would be.
func refuses(t *testing.T, p *process, connected *mqttclient.Session) {
	t.Helper()
	err := connected.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus("probe-" + p.spec.Name), Payload: []byte("0"), QoS: 1})
	if err == nil {
		t.Errorf("%s acknowledged a report while it was cut off", p.spec.Name)
	}
	// [MQTT5 3.4.2.1, 3.14.2.1]; ended before, the connection says why.
	legal(t, p.spec.Name+", to a report", errors.Join(err, connected.Err()), 0x80, 0x83, 0x89, 0x8B, 0x97)
	s, err := p.device("late-" + p.spec.Name)
	if err == nil {
		s.Close()
		t.Errorf("%s let a device in while it was cut off", p.spec.Name)
		return
	}
	legal(t, p.spec.Name+", to a CONNECT", err, 0x80, 0x88, 0x89) // [MQTT5 3.2.2.2]
}

func legal(t *testing.T, what string, err error, codes ...byte) {
	t.Helper()
	code, ok := mqttclient.Refused(err)
	for _, c := range codes {
		if ok && c == code {
			t.Logf("%s: %v", what, err)
			return
		}
	}
	t.Errorf("%s: %v", what, err)
}

// takes: a node lets a device in and acknowledges what it reports. It may still be
// busy with the others.
func takes(t *testing.T, p *process) {
	t.Helper()
	devtest.Eventually(t, time.Minute, p.spec.Name+" to take a report", func() error {
		s, err := p.device("late-" + p.spec.Name)
		if err != nil {
			return err
		}
		defer s.Close()
		return s.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus("late-" + p.spec.Name), Payload: []byte("0"), QoS: 1})
	})
}
