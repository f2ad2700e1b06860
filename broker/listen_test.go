package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"

	"golang.org/x/sys/unix"
)

// TestWebSocketAddressIsWritten: who reads the addresses file finds the second
// listener, and it asks for the same certificates.
func TestWebSocketAddressIsWritten(t *testing.T) {
	p := startBroker(t, `websocket_listen: "127.0.0.1:0"`)
	if p.Addr("mqtt-ws") == "" || p.Addr("mqtt-ws") == p.Addr("mqtt") {
		t.Fatalf("addresses %q and %q", p.Addr("mqtt"), p.Addr("mqtt-ws"))
	}
	credential, err := p.ca.IssueDevice("cam-1", "cam-a", "r1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig, err := certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: p.ca.Authority()}, certs.ServiceBroker)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", p.Addr("mqtt-ws"), tlsConfig)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

// descriptors is how many file descriptors the process has open.
func (p *process) descriptors() int {
	p.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
	if err != nil {
		p.t.Fatal(err)
	}
	return len(entries)
}

// connect holds n connections open that say nothing.
func (p *process) connect(n int) (idle []net.Conn) {
	p.t.Helper()
	for range n {
		conn, err := net.Dial("tcp", p.Addr("mqtt")) // taken by the kernel, if not by the broker
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(func() { _ = conn.Close() })
		idle = append(idle, conn)
	}
	return idle
}

func report(t *testing.T, s *mqttclient.Session, device string) error {
	t.Helper()
	return s.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus(device), Payload: []byte("x"), QoS: 1})
}

// TestOutOfFilesTheBrokerServesOn takes the broker's file descriptors away. Who
// is connected stays so (what cannot be stored meanwhile is refused); when there
// are descriptors again, so is everything else.
func TestOutOfFilesTheBrokerServesOn(t *testing.T) {
	p := startBroker(t, `limits: {connect_timeout: 5m}`)
	witness, err := p.device("witness")
	if err != nil {
		t.Fatal(err)
	}
	defer witness.Close()
	if err := report(t, witness, "witness"); err != nil {
		t.Fatal(err)
	}
	few := uint64(p.descriptors() + 16) // the lowest that is free is taken first
	if err := unix.Prlimit(p.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: few, Max: few}, nil); err != nil {
		t.Fatal(err)
	}
	failures := regexp.MustCompile(`cannot accept connections.*too many open files`)
	for round := 1; round <= 2; round++ {
		before := len(failures.FindAllString(p.LogTail(1000), -1))
		idle := p.connect(60)
		devtest.Eventually(t, 0, "accepting to fail, again and again", devtest.True(func() bool {
			if err := report(t, witness, "witness"); err != nil {
				if code, ok := mqttclient.Refused(err); !ok || code != 0x97 {
					t.Errorf("the witness: %v", err)
				}
			}
			return len(failures.FindAllString(p.LogTail(1000), -1)) >= before+3
		}))
		for _, conn := range idle {
			_ = conn.Close()
		}
		newcomer, err := p.device("newcomer")
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		devtest.Eventually(t, 0, "the newcomer's report", func() error { return report(t, newcomer, "newcomer") })
		newcomer.Close()
	}
	devtest.Eventually(t, 0, "the witness' report", func() error { return report(t, witness, "witness") })
	select {
	case <-witness.Done():
		t.Error("the witness lost its connection")
	default:
	}
	if got := p.metric("broker_accept_errors_total"); got < 6 {
		t.Errorf("%v failures counted", got)
	}
}

// TestConnectionsLeaveFilesForTheStore: however many connect, what is reported
// can be stored.
func TestConnectionsLeaveFilesForTheStore(t *testing.T) {
	p := newSite(t).broker("node-1", "127.0.0.1:0", `limits: {connect_timeout: 5m}`)
	p.spec.Args = append([]string{"-c", `ulimit -n 512; exec "$0" "$@"`, p.spec.Path}, p.spec.Args...)
	p.spec.Path = "/bin/sh"
	p.start()
	witness, err := p.device("witness")
	if err != nil {
		t.Fatal(err)
	}
	defer witness.Close()
	idle := p.connect(600)
	_ = idle[len(idle)-1].SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := idle[len(idle)-1].Read(make([]byte, 1)); err != io.EOF { // turned away: all were seen
		t.Errorf("the last one: %v", err)
	}
	for range 20 {
		if err := report(t, witness, "witness"); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.metric("broker_accept_errors_total"); got != 0 {
		t.Errorf("%v failures to accept", got)
	}
	if !strings.Contains(p.LogTail(1000), "fewer connections than limits.max_connections") {
		t.Error("no warning")
	}
}

// metric is the value of one line of the broker's metrics.
func (p *process) metric(name string) (v float64) {
	p.t.Helper()
	devtest.Eventually(p.t, 0, name, func() error {
		resp, err := http.Get("http://" + p.Addr("ops") + "/metrics")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		_, rest, ok := strings.Cut(string(body), "\n"+name+" ")
		if !ok {
			return fmt.Errorf("no %s", name)
		}
		_, err = fmt.Sscan(rest, &v)
		return err
	})
	return v
}
