package mqtt

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode"

	"groundswell/certs"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Lab is a listener for interoperability work: MQTT without TLS and without names,
// on any topic. What goes on there stays there: its clients, topics and sessions are
// a world of their own.
type Lab struct {
	// Listen is a loopback address, host:port; port 0 takes a free one. Empty: none.
	Listen string `yaml:"listen"`
	// ServerKeepAlive is the keep-alive that MQTT 5 clients are told to have, in
	// whole seconds; 0: the one that they ask for.
	ServerKeepAlive time.Duration `yaml:"server_keep_alive"`
	// RefuseFilter is one topic filter that nobody may subscribe to. Empty: none.
	RefuseFilter string `yaml:"refuse_filter"`
	// Bytes is the size of the stored messages, and as much again of the retained
	// ones. When it is full, the oldest messages go.
	Bytes int64 `yaml:"bytes"`
}

// DefaultLab is off.
func DefaultLab() Lab { return Lab{Bytes: 256 << 20} }

// Validate names the first field that cannot be used.
func (l Lab) Validate() error {
	if l.Listen != "" {
		host, _, err := net.SplitHostPort(l.Listen)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			return fmt.Errorf("listen: %q is not a loopback address such as 127.0.0.1: anybody could connect", host)
		}
	}
	if k := l.ServerKeepAlive; k < 0 || k > 65535*time.Second || k%time.Second != 0 {
		return fmt.Errorf("server_keep_alive: %v is not a number of whole seconds from 0 to 65535", k)
	}
	if l.Listen != "" && l.Bytes < 1<<20 {
		return errors.New("bytes: must be at least 1 MiB")
	}
	return nil
}

// labIdentity is what clients of the lab are. No access rule knows it.
var labIdentity = certs.Identity{Kind: "lab", Name: "anonymous"}

// labPrefix keeps the client ids of the lab apart: no other may begin with it.
const labPrefix = "$lab/"

// labClientID makes c's client id of what its client sent.
func labClientID(c *conn, pk *packets.Packet) error {
	id := pk.Connect.ClientIdentifier
	switch {
	case id == "" && !c.v5 && !pk.Connect.Clean:
		return errors.New("no client id, but a session that is to last") // [MQTT-3.1.3-8] of 3.1.1
	case id == "":
		c.assigned = rand.Text() // [MQTT-3.1.3-6]
		id = c.assigned
	case len(id) > 1024, strings.TrimSpace(id) != id, strings.ContainsFunc(id, unicode.IsControl):
		return fmt.Errorf("client id %q: longer than 1,024 bytes, or with blanks around it or control characters in it", clip(id))
	}
	c.clientID = labPrefix + id
	if !c.v5 {
		c.assigned = ""
	}
	return nil
}

// planeOf is the world that a connection's client lives in.
func (b *Broker) planeOf(c *conn) *plane {
	if c.lab {
		return b.lab
	}
	return b.fleet
}
