// Package mqttpeer is an MQTT 5 server that does exactly what a test tells it
// to, also what no honest broker would. It keeps no state and answers nothing by
// itself: each connection is handed to a script. It is for tests only.
package mqttpeer

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/eclipse/paho.golang/packets"
)

// Server accepts connections until it is closed.
type Server struct {
	listener net.Listener
	script   func(*Conn)
	done     sync.WaitGroup

	mu     sync.Mutex // guards what follows
	open   map[*Conn]bool
	closed bool
}

// Listen serves on a free port of 127.0.0.1, by TLS unless config is nil. script
// runs for each connection, which is closed when it returns.
func Listen(config *tls.Config, script func(*Conn)) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{listener: l, script: script, open: map[*Conn]bool{}}
	if config != nil {
		s.listener = tls.NewListener(l, config)
	}
	s.done.Go(s.accept)
	return s, nil
}

// Addr is host:port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

func (s *Server) accept() {
	for {
		raw, err := s.listener.Accept()
		if err != nil {
			return
		}
		c := &Conn{Conn: raw}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			raw.Close()
			continue
		}
		s.open[c] = true
		s.done.Go(func() {
			defer s.forget(c)
			s.script(c)
		})
		s.mu.Unlock()
	}
}

func (s *Server) forget(c *Conn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// Close ends the listener and every connection, and waits for their scripts. It may be
// called again.
func (s *Server) Close() {
	s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.done.Wait()
}

// Conn is one connection. One goroutine reads; any may write.
type Conn struct {
	net.Conn
	write sync.Mutex // held while a packet is written
}

// Kind is MQTT's packet type.
type Kind byte

// Kinds of packets that a client sends.
const (
	Connect     Kind = Kind(packets.CONNECT)
	Publish     Kind = Kind(packets.PUBLISH)
	Puback      Kind = Kind(packets.PUBACK)
	Subscribe   Kind = Kind(packets.SUBSCRIBE)
	Unsubscribe Kind = Kind(packets.UNSUBSCRIBE)
	Ping        Kind = Kind(packets.PINGREQ)
	Disconnect  Kind = Kind(packets.DISCONNECT)
	Other       Kind = 0
)

// Packet is what the client sent. Fields that its kind does not have are zero.
type Packet struct {
	Kind    Kind
	ID      uint16 // packet id; a publish at QoS 0 has none
	Topic   string
	Payload []byte
	Filters []string // of SUBSCRIBE and UNSUBSCRIBE
	Client  string   // client id of CONNECT
}

// Read returns the next packet.
func (c *Conn) Read() (Packet, error) {
	in, err := packets.ReadPacket(c.Conn)
	if err != nil {
		return Packet{}, err
	}
	switch p := in.Content.(type) {
	case *packets.Connect:
		return Packet{Kind: Connect, Client: p.ClientID}, nil
	case *packets.Publish:
		return Packet{Kind: Publish, ID: p.PacketID, Topic: p.Topic, Payload: p.Payload}, nil
	case *packets.Puback:
		return Packet{Kind: Puback, ID: p.PacketID}, nil
	case *packets.Subscribe:
		out := Packet{Kind: Subscribe, ID: p.PacketID}
		for _, s := range p.Subscriptions {
			out.Filters = append(out.Filters, s.Topic)
		}
		return out, nil
	case *packets.Unsubscribe:
		return Packet{Kind: Unsubscribe, ID: p.PacketID, Filters: p.Topics}, nil
	case *packets.Pingreq:
		return Packet{Kind: Ping}, nil
	case *packets.Disconnect:
		return Packet{Kind: Disconnect}, nil
	}
	return Packet{Kind: Other}, nil
}

// Raw sends bytes as they are.
func (c *Conn) Raw(data []byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	_, err := c.Conn.Write(data)
	return err
}

func (c *Conn) send(p io.WriterTo) error {
	var whole bytes.Buffer
	if _, err := p.WriteTo(&whole); err != nil {
		return err
	}
	return c.Raw(whole.Bytes())
}

// Limits are what CONNACK tells the client to keep to. Nil: it does not say.
type Limits struct {
	KeepAlive, ReceiveMaximum *uint16 // seconds; messages
	MaximumPacketSize         *uint32
	MaximumQoS                *byte
}

// Connack answers CONNECT.
func (c *Conn) Connack(code byte, l Limits) error {
	return c.send(&packets.Connack{ReasonCode: code, Properties: &packets.Properties{
		ServerKeepAlive: l.KeepAlive, ReceiveMaximum: l.ReceiveMaximum, MaximumPacketSize: l.MaximumPacketSize, MaximumQOS: l.MaximumQoS,
	}})
}

// Message sends a PUBLISH. At QoS 0 the id is not sent.
func (c *Conn) Message(topic string, payload []byte, qos byte, id uint16, retained bool) error {
	return c.send(&packets.Publish{Topic: topic, Payload: payload, QoS: qos, PacketID: id, Retain: retained, Properties: &packets.Properties{}})
}

// Puback acknowledges a publish, rightly or not.
func (c *Conn) Puback(id uint16, code byte) error {
	return c.send(&packets.Puback{PacketID: id, ReasonCode: code, Properties: &packets.Properties{}})
}

// Suback answers SUBSCRIBE, with a code per filter.
func (c *Conn) Suback(id uint16, codes ...byte) error {
	return c.send(&packets.Suback{PacketID: id, Reasons: codes, Properties: &packets.Properties{}})
}

// Unsuback answers UNSUBSCRIBE, with a code per filter.
func (c *Conn) Unsuback(id uint16, codes ...byte) error {
	return c.send(&packets.Unsuback{PacketID: id, Reasons: codes, Properties: &packets.Properties{}})
}

// Pong answers a ping.
func (c *Conn) Pong() error { return c.send(packets.NewControlPacket(packets.PINGRESP)) }

// Bye sends DISCONNECT.
func (c *Conn) Bye(code byte) error {
	return c.send(&packets.Disconnect{ReasonCode: code, Properties: &packets.Properties{}})
}

// ErrNotConnect: the first packet of a connection was another.
var ErrNotConnect = errors.New("first packet is not CONNECT")

// Greet reads CONNECT and accepts it.
func (c *Conn) Greet() (Packet, error) {
	p, err := c.Read()
	if err != nil {
		return p, err
	}
	if p.Kind != Connect {
		return p, fmt.Errorf("%w: %d", ErrNotConnect, p.Kind)
	}
	return p, c.Connack(0, Limits{})
}
