package mdns

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sync/errgroup"
)

// Config is what a Node needs.
type Config struct {
	Interfaces []string
	// Service is what this device announces now; not ok: nothing, and it listens to nobody.
	// It is asked every 30 s, and after Changed.
	Service func() (s Service, ok bool)
	// Found gets what is found, one at a time. Own announcements are not.
	Found func(Found)
	// Known are the names of devices that need not answer a question.
	Known func() []string
	Log   *slog.Logger
}

// Node is this device on its links.
type Node struct {
	cfg Config

	asked   chan struct{} // gets a value when Service is to be asked
	mu      sync.Mutex    // guards what follows
	changed chan struct{}
	service Service
	ok      bool
}

// New does no I/O.
func New(c Config) *Node {
	return &Node{cfg: c, asked: make(chan struct{}, 1), changed: make(chan struct{})}
}

// Changed has the device announced as it is now, and the others asked who is there.
func (n *Node) Changed() {
	select {
	case n.asked <- struct{}{}:
	default: // one reminder is enough
	}
}

// current is what is announced, until changed is closed.
func (n *Node) current() (s Service, ok bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.service, n.ok, n.changed
}

// keep asks what is announced, until ctx ends: what others send has nobody ask.
func (n *Node) keep(ctx context.Context) {
	for told := true; ctx.Err() == nil; {
		service, ok := n.cfg.Service()
		n.mu.Lock()
		if told || ok != n.ok || service.Port != n.service.Port || !slices.Equal(service.Text, n.service.Text) {
			n.service, n.ok = service, ok
			close(n.changed)
			n.changed = make(chan struct{})
		}
		n.mu.Unlock()
		timer := time.NewTimer(refreshed)
		select {
		case <-ctx.Done():
			told = false
		case <-timer.C:
			told = false
		case <-n.asked:
			told = true
		}
		timer.Stop()
	}
}

// Run announces and looks, until ctx ends. An interface that is not there, or goes away,
// is tried again.
func (n *Node) Run(ctx context.Context) error {
	var g errgroup.Group
	var found sync.Mutex
	g.Go(func() error { n.keep(ctx); return nil })
	for _, name := range n.cfg.Interfaces {
		for _, v6 := range []bool{false, true} {
			g.Go(func() error {
				said := ""
				for ctx.Err() == nil {
					if _, ok, changed := n.current(); !ok {
						select {
						case <-ctx.Done():
						case <-changed:
						}
						continue
					}
					err := n.link(ctx, &found, name, v6)
					if text := errorText(err); text != said && !(v6 && errors.Is(err, errNoAddress)) {
						if said = text; err != nil {
							n.cfg.Log.Warn("peers cannot be looked for", "interface", name, "err", err)
						}
					}
					if _, ok, _ := n.current(); ok {
						pause(ctx, again)
					}
				}
				return nil
			})
		}
	}
	return g.Wait()
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

const (
	again     = 10 * time.Second // until an interface is tried again
	renewed   = 30 * time.Minute // until what is good for 75 minutes is announced again
	refreshed = 30 * time.Second // until it is asked again what is announced
	most      = time.Hour        // between two questions
	// apart is the shortest time between two packets that say the same (RFC 6762, 6).
	apart = time.Second
)

// link announces and looks on one link, until ctx ends, nothing is to be announced any
// more, or the interface changes.
func (n *Node) link(ctx context.Context, found *sync.Mutex, name string, v6 bool) error {
	s, err := open(name, v6)
	if err != nil {
		return err
	}
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan struct{}, 1) // gets a value when somebody is to be answered
	var heard errgroup.Group
	heard.Go(func() error { defer cancel(); return n.listen(s, found, answers) })
	err = n.speak(within, s, name, v6, answers)
	_ = s.conn.Close()
	return errors.Join(err, heard.Wait())
}

// speak sends questions and announcements, until ctx ends, nothing is to be announced any
// more, or the interface's addresses change. Then it says that this device is gone.
func (n *Node) speak(ctx context.Context, s *socket, name string, v6 bool, answers <-chan struct{}) error {
	service, ok, changed := n.current()
	defer func() {
		if raw, err := announcement(service, 0, nil); err == nil {
			_ = s.send(raw) // who does not hear it finds out
		}
	}()
	soon := func() time.Time { return time.Now().Add(20*time.Millisecond + rand.N(100*time.Millisecond)) }
	var said time.Time
	// Each is sent twice, a second apart (RFC 6762, 5.2 and 8.3); questions ever more rarely
	// from then on.
	say, ask, look := soon(), soon(), time.Now().Add(again)
	more, gap := 1, apart
	for ok && ctx.Err() == nil {
		now := time.Now()
		if !now.Before(say) {
			if err := announce(s, service); err != nil {
				return err
			}
			said, say = now, now.Add(renewed)
			if more > 0 {
				more, say = more-1, now.Add(apart)
			}
		}
		if !now.Before(ask) {
			raw, err := question(n.cfg.Known())
			if err == nil {
				err = s.send(raw)
			}
			if err != nil {
				return err
			}
			ask, gap = now.Add(gap), min(2*gap, most)
		}
		if !now.Before(look) {
			if own, err := networks(name, v6); err != nil || !slices.Equal(own, s.own) {
				return err
			}
			look = now.Add(again)
		}
		timer := time.NewTimer(time.Until(earliest(say, ask, look)))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-changed:
			var now Service
			if now, ok, changed = n.current(); ok {
				service = now // else the one that was announced is gone
			}
			more, gap = 1, apart
			say, ask = latest(soon(), said.Add(apart)), soon()
		case <-answers: // others may be asked as well
			say = earliest(say, latest(soon(), said.Add(apart)))
		}
		timer.Stop()
	}
	return nil
}

// announce says that this device is there.
func announce(s *socket, service Service) error {
	raw, err := announcement(service, TTL, s.addrs())
	if err != nil {
		return err
	}
	return s.send(raw)
}

func earliest(list ...time.Time) time.Time { return slices.MinFunc(list, time.Time.Compare) }

func latest(list ...time.Time) time.Time { return slices.MaxFunc(list, time.Time.Compare) }

// listen reads packets until the socket is closed.
func (n *Node) listen(s *socket, found *sync.Mutex, answers chan<- struct{}) error {
	buffer := make([]byte, maxPacket)
	for {
		k, from, err := s.conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return nil // closed, or the interface is gone, which speak finds out
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if from.Port() != port || !s.onLink(from.Addr()) { // RFC 6762, 6 and 11
			continue
		}
		m, err := read(buffer[:k])
		if err != nil {
			continue // anybody may send anything
		}
		own, ok, _ := n.current()
		if !ok {
			continue // about to leave
		}
		if !m.response {
			if wanted(m, own.Name) {
				select {
				case answers <- struct{}{}:
				default: // one reminder is enough
				}
			}
			continue
		}
		found.Lock()
		for _, service := range m.services {
			if service.Name != own.Name {
				n.cfg.Found(Found{service.Service, netip.AddrPortFrom(from.Addr(), service.Port), service.ttl})
			}
		}
		found.Unlock()
	}
}

// wanted reports whether a question is to be answered.
func wanted(m message, name string) bool {
	if m.known[name+"."+serviceName] {
		return false
	}
	return slices.ContainsFunc(m.asked, func(q dnsmessage.Question) bool { return concerns(q, name) })
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(max(0, d))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
