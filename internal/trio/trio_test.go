package main

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// freePorts finds a base for which plan finds every port free.
func freePorts(t *testing.T) int {
	t.Helper()
	var last error
	for range 20 {
		_, text, err := net.SplitHostPort(devtest.FreeAddresses(t, 1)[0])
		if err != nil {
			t.Fatal(err)
		}
		base, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, last = plan(t.TempDir(), base); last == nil {
			return base
		}
	}
	t.Fatal(last)
	return 0
}

func TestThreeNodesAreOneBroker(t *testing.T) {
	dir, base := t.TempDir(), freePorts(t)
	program, err := devstack.Program(t.Context(), "./internal/trio")
	if err != nil {
		t.Fatal(err)
	}
	start := func() *devstack.Process {
		t.Helper()
		p := devtest.Start(t, devstack.Spec{Name: "trio", Path: program, Args: []string{"--dir", dir, "--port", strconv.Itoa(base)}, Death: syscall.SIGTERM})
		devtest.Eventually(t, 2*time.Minute, "what to do", func() error {
			select {
			case <-p.Done():
				t.Fatalf("it ended:\n%s", p.LogTail(20))
			default:
			}
			if text := p.LogTail(100); !strings.Contains(text, "Ctrl-C stops") {
				return fmt.Errorf("it says %s", text)
			}
			return nil
		})
		return p
	}
	connect := func(who, id string, node int, onMessage func(mqttclient.Message)) *mqttclient.Session {
		t.Helper()
		at := func(name string) string { return filepath.Join(dir, name) }
		credential, err := certs.LoadCredential(at(who+".crt"), at(who+".key"))
		if err != nil {
			t.Fatal(err)
		}
		authority, err := certs.LoadAuthority(at("ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		tlsConfig, err := certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: authority}, certs.ServiceBroker)
		if err != nil {
			t.Fatal(err)
		}
		s, err := mqttclient.Dial(t.Context(), mqttclient.Config{
			Servers: []string{fmt.Sprintf("mqtts://127.0.0.1:%d", base+node)}, TLS: tlsConfig, ClientID: id, OnMessage: onMessage,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	p := start()
	report := func(text string) {
		t.Helper()
		err := connect(device, device, 0, nil).Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus(device), Payload: []byte(text), QoS: 1})
		if err != nil {
			t.Fatal(err)
		}
	}
	stop := func() {
		t.Helper()
		if err := p.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		if code := p.Wait(); code != 0 {
			t.Errorf("exit code %d:\n%s", code, p.LogTail(20))
		}
		if _, err := plan(dir, base); err != nil {
			t.Errorf("something still runs: %v", err)
		}
	}
	report("before") // nobody is there
	stop()

	p = start() // what it holds is there again
	got := make(chan string, 100)
	s := connect("fleetd", "fleetd-try", 2, func(m mqttclient.Message) {
		if m.Topic == topics.DeviceStatus(device) {
			got <- string(m.Payload)
		}
	})
	if err := s.Subscribe(t.Context(), []mqttclient.Subscription{{Filter: topics.Share(topics.GroupRegistry, topics.Uplink), QoS: 1}}); err != nil {
		t.Fatal(err)
	}
	report("after")
	for _, want := range []string{"before", "after"} {
		select {
		case text := <-got:
			if text != want {
				t.Errorf("got %q, want %q", text, want)
			}
		case <-time.After(devtest.Patience):
			t.Fatalf("%q did not come", want)
		}
	}
	stop()
}

func TestATakenPortIsNamed(t *testing.T) {
	base := freePorts(t)
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+102))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = run(t.Context(), t.TempDir(), base, io.Discard)
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "PORT=") {
		t.Errorf("got %v", err)
	}
}
