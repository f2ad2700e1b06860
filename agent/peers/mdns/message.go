package mdns

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// The names of this service. Names are compared without regard to case (RFC 6762, 16).
const (
	serviceName = "_groundswell._tcp.local."
	browseName  = "_services._dns-sd._udp.local." // which services there are (RFC 6763, 9)
)

const (
	// maxPacket is the largest packet in bytes (RFC 6762, 17).
	maxPacket = 9000
	// maxRecords is how many records, and maxQuestions how many questions, are read of a
	// packet.
	maxRecords, maxQuestions = 64, 16
	// flush says that a record replaces those before it (RFC 6762, 10.2); in a question
	// the same bit asks for an answer by unicast.
	flush = 1 << 15
)

// TTL is how long what is announced is good for (RFC 6762, 10), and the longest time for
// which anything is taken to be.
const TTL = 75 * time.Minute

// ErrPacket: it is no message of multicast DNS, or a larger one than this one reads.
var ErrPacket = errors.New("bad packet")

// Service is what a device announces.
type Service struct {
	Name string // 16 lower-case hexadecimal digits
	Port uint16
	// Text are strings "key=value" (RFC 6763, 6), of at most 255 bytes.
	Text []string
}

// Found is a device that was announced.
type Found struct {
	Service
	Addr netip.AddrPort // where it serves, with the zone of a link-local address
	TTL  time.Duration  // how long that is good for, at most TTL; 0: it says that it is gone
}

var instanceName = regexp.MustCompile(`^([0-9a-f]{16})\._groundswell\._tcp\.local\.$`)

// message is what is of interest in a packet.
type message struct {
	response bool
	asked    []dnsmessage.Question
	known    map[string]bool // instances that who asks knows already, for long enough yet
	services []announced
}

type announced struct {
	Service
	ttl time.Duration
}

// read reads a packet. Its error is ErrPacket.
func read(raw []byte) (message, error) {
	refuse := func(err error) (message, error) { return message{}, fmt.Errorf("%w: %w", ErrPacket, err) }
	if len(raw) > maxPacket {
		return refuse(errors.New("too large"))
	}
	var p dnsmessage.Parser
	h, err := p.Start(raw)
	if err != nil {
		return refuse(err)
	}
	if h.OpCode != 0 || h.RCode != 0 { // RFC 6762, 18.3 and 18.11
		return refuse(errors.New("not a standard query"))
	}
	m := message{response: h.Response, known: map[string]bool{}}
	for {
		q, err := p.Question()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			return refuse(err)
		}
		if m.asked = append(m.asked, q); len(m.asked) > maxQuestions {
			return refuse(errors.New("too many questions"))
		}
	}
	if err := m.records(&p); err != nil {
		return refuse(err)
	}
	return m, nil
}

// records reads the answers and what comes with them.
func (m *message) records(p *dnsmessage.Parser) error {
	ports, texts := map[string]announced{}, map[string]announced{}
	n := 0
	section := func(next func() (dnsmessage.ResourceHeader, error), skip func() error) error {
		for {
			h, err := next()
			if errors.Is(err, dnsmessage.ErrSectionDone) {
				return nil
			}
			if err != nil {
				return err
			}
			if n++; n > maxRecords {
				return errors.New("too many records")
			}
			name, life := strings.ToLower(h.Name.String()), time.Duration(h.TTL)*time.Second
			match := instanceName.FindStringSubmatch(name)
			switch {
			case h.Class&^flush != dnsmessage.ClassINET:
				err = skip()
			case h.Type == dnsmessage.TypePTR && name == serviceName:
				var r dnsmessage.PTRResource
				if r, err = p.PTRResource(); err == nil && life >= TTL/2 { // RFC 6762, 7.1
					m.known[strings.ToLower(r.PTR.String())] = true
				}
			case h.Type == dnsmessage.TypeSRV && match != nil:
				var r dnsmessage.SRVResource
				if r, err = p.SRVResource(); err == nil {
					ports[match[1]] = announced{Service{Name: match[1], Port: r.Port}, min(life, TTL)}
				}
			case h.Type == dnsmessage.TypeTXT && match != nil:
				var r dnsmessage.TXTResource
				if r, err = p.TXTResource(); err == nil {
					texts[match[1]] = announced{Service{Text: r.TXT}, life}
				}
			default:
				err = skip()
			}
			if err != nil {
				return err
			}
		}
	}
	if err := section(p.AnswerHeader, p.SkipAnswer); err != nil {
		return err
	}
	if err := p.SkipAllAuthorities(); err != nil {
		return err
	}
	if err := section(p.AdditionalHeader, p.SkipAdditional); err != nil {
		return err
	}
	for name, s := range ports {
		if text, ok := texts[name]; ok && s.Port != 0 {
			s.Text, s.ttl = text.Text, min(s.ttl, text.ttl)
			m.services = append(m.services, s)
		}
	}
	return nil
}

// question asks who is there, and names those that are known, as many as fit.
func question(known []string) ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{})
	b.EnableCompression()
	service, err := dnsmessage.NewName(serviceName)
	if err == nil {
		err = b.StartQuestions()
	}
	if err == nil {
		err = b.Question(dnsmessage.Question{Name: service, Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET})
	}
	if err == nil {
		err = b.StartAnswers()
	}
	for _, name := range known[:min(len(known), maxKnown)] {
		var instance dnsmessage.Name
		if instance, err = dnsmessage.NewName(name + "." + serviceName); err == nil {
			err = b.PTRResource(header(service, TTL, 0), dnsmessage.PTRResource{PTR: instance})
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	return b.Finish()
}

// maxKnown is how many known answers fit into a packet that needs no fragments.
const maxKnown = 30

func header(name dnsmessage.Name, life time.Duration, bits dnsmessage.Class) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET | bits, TTL: uint32(life / time.Second)}
}

// announcement says that a device is there, for so long; 0: that it is gone.
func announcement(s Service, life time.Duration, addrs []netip.Addr) ([]byte, error) {
	var names [4]dnsmessage.Name
	for i, text := range []string{serviceName, s.Name + "." + serviceName, s.Name + ".local.", browseName} {
		var err error
		if names[i], err = dnsmessage.NewName(text); err != nil {
			return nil, err
		}
	}
	service, instance, host, browse := names[0], names[1], names[2], names[3]
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{Response: true, Authoritative: true})
	b.EnableCompression()
	text := s.Text
	if len(text) == 0 {
		text = []string{""} // RFC 6763, 6.1
	}
	err := errors.Join(
		b.StartAnswers(),
		b.PTRResource(header(service, life, 0), dnsmessage.PTRResource{PTR: instance}),
		b.SRVResource(header(instance, life, flush), dnsmessage.SRVResource{Port: s.Port, Target: host}),
		b.TXTResource(header(instance, life, flush), dnsmessage.TXTResource{TXT: text}),
		b.PTRResource(header(browse, life, 0), dnsmessage.PTRResource{PTR: service}),
		b.StartAdditionals(),
	)
	for _, a := range addrs {
		if a.Is4() {
			err = errors.Join(err, b.AResource(header(host, life, flush), dnsmessage.AResource{A: a.As4()}))
		} else {
			err = errors.Join(err, b.AAAAResource(header(host, life, flush), dnsmessage.AAAAResource{AAAA: a.As16()}))
		}
	}
	if err != nil {
		return nil, err
	}
	return b.Finish()
}

// concerns reports whether a question is about a device, or about who is there.
func concerns(q dnsmessage.Question, name string) bool {
	if q.Class&^flush != dnsmessage.ClassINET && q.Class != dnsmessage.ClassANY {
		return false
	}
	is := func(types ...dnsmessage.Type) bool {
		for _, t := range types {
			if q.Type == t {
				return true
			}
		}
		return q.Type == dnsmessage.TypeALL
	}
	switch strings.ToLower(q.Name.String()) {
	case serviceName, browseName:
		return is(dnsmessage.TypePTR)
	case name + "." + serviceName:
		return is(dnsmessage.TypeSRV, dnsmessage.TypeTXT)
	case name + ".local.":
		return is(dnsmessage.TypeA, dnsmessage.TypeAAAA)
	}
	return false
}
