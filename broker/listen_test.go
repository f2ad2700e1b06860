package main

import (
	"crypto/tls"
	"testing"
	"time"

	"groundswell/certs"
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
