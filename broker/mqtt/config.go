package mqtt

import (
	"errors"
	"fmt"
	"net"
	"time"

	"groundswell/topics"
)

// Config is what the edge needs to know.
type Config struct {
	// Node names this broker in presence messages and logs.
	Node string
	// TrustDomain is the domain whose devices and services may connect.
	TrustDomain string
	// Listen is host:port; port 0 takes a free one.
	Listen string
	// WebsocketListen is host:port for MQTT over WebSocket, with the same TLS;
	// empty: none.
	WebsocketListen string
	ProxyProtocol   ProxyProtocol
	Lab             Lab
	Limits          Limits
}

// Limits bound what one client, or all together, can take. Every field has a
// value in DefaultLimits; none but ConnectsPerSecond may be zero.
type Limits struct {
	// MaxConnections is how many connections may be open, on all listeners
	// together. Of further ones a few get as far as CONNECT: devices are refused
	// there (0x97, or 3 before MQTT 5), services let in. The rest are closed.
	// A process that may open fewer files lets in fewer, and says so at start.
	MaxConnections int `yaml:"max_connections"`
	// HandshakesPerSecond is how many TLS handshakes are begun per second;
	// further ones wait, and those that would wait for longer than
	// ConnectTimeout are closed.
	HandshakesPerSecond int `yaml:"handshakes_per_second"`
	// ConnectsPerSecond is how many CONNECTs of devices are taken per second;
	// further ones are refused (0x9F, or 3 before MQTT 5). Zero: all are taken.
	ConnectsPerSecond int `yaml:"connects_per_second"`
	// TakeoversPerMinute is how often, in the long run, connections of one client
	// id may replace one another; the next is refused.
	TakeoversPerMinute int `yaml:"takeovers_per_minute"`
	// ConnectTimeout bounds the TLS handshake, and then the wait for CONNECT.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	// MaxKeepAlive is the longest keep-alive; MQTT 5 clients that ask for a
	// longer one, or for none, are told this one.
	MaxKeepAlive time.Duration `yaml:"max_keep_alive"`
	// MaxSessionExpiry is the longest that a session outlives its connection.
	MaxSessionExpiry time.Duration `yaml:"max_session_expiry"`
	// MaxPacket is the largest packet in bytes.
	MaxPacket int `yaml:"max_packet"`
	// ReceiveMaximum is how many publishes of one client may wait for the
	// store.
	ReceiveMaximum int `yaml:"receive_maximum"`
	// WriteBuffer is how many bytes may wait to be written to one client
	// before it is closed as too slow.
	WriteBuffer int `yaml:"write_buffer"`
	// WriteTimeout is how long a client may take nothing from us before it is
	// closed as too slow.
	WriteTimeout time.Duration `yaml:"write_timeout"`
	// SessionQueueMessages and SessionQueueBytes bound what waits in a session.
	SessionQueueMessages int `yaml:"session_queue_messages"`
	SessionQueueBytes    int `yaml:"session_queue_bytes"`
	// Subscriptions is how many a session may hold.
	Subscriptions int `yaml:"subscriptions"`
}

// DefaultLimits suit a node of a few cores.
func DefaultLimits() Limits {
	return Limits{
		MaxConnections:       100_000,
		HandshakesPerSecond:  2_000,
		TakeoversPerMinute:   10,
		ConnectTimeout:       10 * time.Second,
		MaxKeepAlive:         20 * time.Minute,
		MaxSessionExpiry:     7 * 24 * time.Hour,
		MaxPacket:            topics.MaxPacket,
		ReceiveMaximum:       1024,
		WriteBuffer:          1 << 20,
		WriteTimeout:         20 * time.Second,
		SessionQueueMessages: 4096,
		SessionQueueBytes:    8 << 20,
		Subscriptions:        128,
	}
}

// Validate names the first limit that cannot be used.
func (l Limits) Validate() error {
	for _, n := range []struct {
		name             string
		value, low, high int
	}{
		{"max_connections", l.MaxConnections, 1, 10_000_000},
		{"handshakes_per_second", l.HandshakesPerSecond, 1, 1_000_000},
		{"connects_per_second", l.ConnectsPerSecond, 0, 1_000_000},
		{"takeovers_per_minute", l.TakeoversPerMinute, 1, 1_000_000},
		{"max_packet", l.MaxPacket, 1024, 16 << 20},
		{"receive_maximum", l.ReceiveMaximum, 1, 65535},
		{"write_buffer", l.WriteBuffer, 4096, 1 << 30},
		{"session_queue_messages", l.SessionQueueMessages, 1, 1 << 24},
		{"session_queue_bytes", l.SessionQueueBytes, 1 << 17, 1 << 32},
		{"subscriptions", l.Subscriptions, topics.MaxCohorts + 2, 1 << 16},
	} {
		if n.value < n.low || n.value > n.high {
			return fmt.Errorf("%s: %d is not from %d to %d", n.name, n.value, n.low, n.high)
		}
	}
	for _, d := range []struct {
		name      string
		value     time.Duration
		low, high time.Duration
	}{
		{"connect_timeout", l.ConnectTimeout, 10 * time.Millisecond, 10 * time.Minute},
		{"write_timeout", l.WriteTimeout, 10 * time.Millisecond, 10 * time.Minute},
		// Above 43,690 s mochi's arithmetic overflows (B12); conn does its own,
		// but nobody needs it.
		{"max_keep_alive", l.MaxKeepAlive, time.Second, 12 * time.Hour},
		{"max_session_expiry", l.MaxSessionExpiry, time.Second, 10 * 365 * 24 * time.Hour},
	} {
		if d.value < d.low || d.value > d.high {
			return fmt.Errorf("%s: %v is not from %v to %v", d.name, d.value, d.low, d.high)
		}
	}
	return nil
}

// Validate names the first field that cannot be used.
func (c Config) Validate() error {
	switch {
	case !topics.ValidID(c.Node):
		return fmt.Errorf("node: %q is not a legal id", c.Node)
	case c.TrustDomain == "":
		return errors.New("trust_domain: is not set")
	case c.Listen == "":
		return errors.New("listen: is not set")
	}
	if c.WebsocketListen != "" {
		if _, _, err := net.SplitHostPort(c.WebsocketListen); err != nil {
			return fmt.Errorf("websocket_listen: %w", err)
		}
	}
	if _, err := c.ProxyProtocol.networks(); err != nil {
		return fmt.Errorf("proxy_protocol.%w", err)
	}
	if err := c.Lab.Validate(); err != nil {
		return fmt.Errorf("lab.%w", err)
	}
	if err := c.Limits.Validate(); err != nil {
		return fmt.Errorf("limits.%w", err)
	}
	return nil
}
