package mqttclient

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// What MQTT's fields can hold.
const (
	// MaxKeepAlive is that of CONNECT's Keep Alive, a 16-bit field [MQTT-3.1.2.10].
	MaxKeepAlive = (1<<16 - 1) * time.Second
	// MaxExpiry is that of a session's and a message's expiry, 32-bit fields. For
	// a session it means "without end".
	MaxExpiry = (1<<32 - 1) * time.Second
)

// Config is everything about a connection. Servers and ClientID are required.
type Config struct {
	// Servers are "mqtts://host:port" (TLS) or "mqtt://host:port", tried in order.
	// After a connection that did not last as long as Backoff.Max, a Client begins
	// with the next one.
	Servers []string
	// TLS is used for mqtts. An empty ServerName is filled in from the URL.
	TLS      *tls.Config
	ClientID string
	// CleanStart forgets, at the first connect, the session that the broker holds.
	CleanStart bool
	// SessionExpiry is how long the broker keeps the session (subscriptions and
	// queued messages) after the connection ends. 0 means not at all; at most
	// MaxExpiry.
	SessionExpiry time.Duration
	// KeepAlive is the longest silence before a ping. Default 60 s; at most
	// MaxKeepAlive.
	KeepAlive time.Duration
	// ReceiveMaximum is how many unacknowledged QoS 1 messages the broker may
	// have under way to us. Default 64.
	ReceiveMaximum uint16
	// MaxPacketSize is the largest packet accepted, in bytes. Default 256 KiB.
	MaxPacketSize uint32
	// ConnectTimeout bounds one attempt, from dialling to CONNACK. Default 10 s.
	ConnectTimeout time.Duration
	// AckTimeout bounds the wait for PUBACK and SUBACK. Default 10 s.
	AckTimeout time.Duration
	// Backoff is between attempts to connect. Default 0.5 s to 60 s.
	Backoff Backoff
	// ManualAck leaves acknowledging to the receiver (Message.Ack). Otherwise a
	// message is acknowledged when OnMessage returns.
	ManualAck bool

	// OnMessage gets every message, one at a time, in order of arrival. While it
	// runs, at most ReceiveMaximum further messages wait. May be nil.
	OnMessage func(Message)
	// OnUp runs after every successful connect, in a goroutine of its own: here
	// one subscribes. ctx ends with this connection. An error drops the
	// connection, and the next attempt comes after a backoff. May be nil.
	// Messages queued by the broker may arrive before or while it runs.
	OnUp func(ctx context.Context, c *Client, sessionPresent bool) error
	// OnDown gets the reason each time a connection was lost (a *RefusedError
	// when the broker said it). It must not block. May be nil.
	OnDown func(error)
	// OnConnectError gets the reason of each failed attempt (a *RefusedError when
	// the broker refused). It must not block. May be nil.
	OnConnectError func(error)
	// Log gets connects, losses and failed attempts. nil discards them.
	Log *slog.Logger
}

// Backoff is the range of the pause between attempts: before attempt n it is
// drawn uniformly from 0 to min(Max, Min x 2^n), so that a fleet which lost its
// broker comes back spread out. Only a connection that lasted longer than Max
// starts the count again.
type Backoff struct{ Min, Max time.Duration }

// prepare fills in the defaults and checks the rest.
func (c *Config) prepare() ([]*url.URL, error) {
	urls, err := parseServers(c.Servers, c.TLS != nil)
	if err != nil {
		return nil, err
	}
	if c.ClientID == "" {
		return nil, fmt.Errorf("client id: empty")
	}
	or := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	or(&c.KeepAlive, time.Minute)
	or(&c.ConnectTimeout, 10*time.Second)
	or(&c.AckTimeout, 10*time.Second)
	or(&c.Backoff.Min, 500*time.Millisecond)
	or(&c.Backoff.Max, time.Minute)
	c.Backoff.Max = max(c.Backoff.Max, c.Backoff.Min)
	if c.ReceiveMaximum == 0 {
		c.ReceiveMaximum = 64
	}
	if c.MaxPacketSize == 0 {
		c.MaxPacketSize = 256 << 10
	}
	if c.KeepAlive > MaxKeepAlive {
		return nil, fmt.Errorf("keep alive: %v is longer than MQTT's %d s", c.KeepAlive, MaxKeepAlive/time.Second)
	}
	if c.SessionExpiry > MaxExpiry {
		return nil, fmt.Errorf("session expiry: %v is longer than MQTT's %d s", c.SessionExpiry, MaxExpiry/time.Second)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return urls, nil
}

// connect is the CONNECT packet.
func (c *Config) connect(cleanStart bool) *paho.Connect {
	properties := &paho.ConnectProperties{
		ReceiveMaximum:     paho.Uint16(c.ReceiveMaximum),
		MaximumPacketSize:  paho.Uint32(c.MaxPacketSize),
		RequestProblemInfo: true,
	}
	if c.SessionExpiry > 0 {
		properties.SessionExpiryInterval = paho.Uint32(wholeSeconds(c.SessionExpiry))
	}
	return &paho.Connect{
		ClientID:   c.ClientID,
		KeepAlive:  uint16(wholeSeconds(c.KeepAlive)),
		CleanStart: cleanStart,
		Properties: properties,
	}
}

// client is the part of paho's configuration that does not depend on how the
// connection is kept. handle gets the connection's messages.
func (c *Config) client() paho.ClientConfig {
	return paho.ClientConfig{
		ClientID:                   c.ClientID,
		PacketTimeout:              c.AckTimeout,
		EnableManualAcknowledgment: c.ManualAck,
		// The default of 50 ms caps throughput at ReceiveMaximum/50 ms.
		SendAcksInterval: time.Millisecond,
		Session:          newEphemeral(),
	}
}
