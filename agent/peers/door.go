package peers

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"groundswell/certs"
)

const (
	// maxConns is how many connections there are at once, and maxOfDevice how many of one
	// device may stay open.
	maxConns, maxOfDevice = 64, 16
	// handshakes is how long one takes at most among those who mean it.
	handshakes = time.Second
)

// door closes connections that are too many, or do not come by the LAN. Who has not proved to be
// a device keeps no device out: where there is no room, the oldest connection that has asked
// nothing yet makes some, of the address that has most of these, unless it is its only one and
// has just come.
type door struct {
	net.Listener
	interfaces []string

	mu       sync.Mutex // guards what follows
	conns    int
	knocking []*guest       // the oldest first
	devices  map[string]int // connections of the others
}

// guest is a connection. Its door's mu guards it.
type guest struct {
	net.Conn
	door   *door
	from   netip.Addr
	since  time.Time
	device string // "": not known yet
	gone   bool
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !on(c.LocalAddr(), d.interfaces) {
			_ = c.Close()
			continue
		}
		g, instead := d.enter(c)
		if instead != nil {
			_ = instead.Close()
		}
		if g == nil {
			_ = c.Close()
			continue
		}
		return g, nil
	}
}

// enter takes a place for a connection, maybe another one's, which is to be closed; nil: there
// is none.
func (d *door) enter(c net.Conn) (g, instead *guest) {
	g = &guest{Conn: c, door: d, since: time.Now()}
	if tcp, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		g.from = tcp.AddrPort().Addr().Unmap()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns >= maxConns {
		if instead = d.oldest(g.from); instead == nil {
			return nil, nil
		}
		d.leave(instead)
	}
	d.conns++
	d.knocking = append(d.knocking, g)
	return g, instead
}

// oldest is who makes room for one more from an address: of one that has more of those who have
// asked nothing yet; nil: there is none. The caller holds mu.
func (d *door) oldest(from netip.Addr) *guest {
	count := map[netip.Addr]int{}
	for _, k := range d.knocking {
		count[k.from]++
	}
	var best *guest
	for _, k := range d.knocking {
		if count[k.from] == 1 && time.Since(k.since) < handshakes {
			continue
		}
		if best == nil || count[k.from] > count[best.from] {
			best = k
		}
	}
	if best == nil || count[best.from] <= count[from] {
		return nil
	}
	return best
}

// leave gives a connection's place back. The caller holds mu.
func (d *door) leave(g *guest) {
	if g.gone {
		return
	}
	g.gone = true
	d.conns--
	d.knocking = slices.DeleteFunc(d.knocking, func(k *guest) bool { return k == g })
	if g.device == "" {
		return
	}
	if d.devices[g.device]--; d.devices[g.device] == 0 {
		delete(d.devices, g.device)
	}
}

// state is an http.Server's ConnState: who asks something has proved who it is.
func (d *door) state(c net.Conn, now http.ConnState) {
	secure, ok := c.(*tls.Conn)
	if !ok || now != http.StateActive {
		return
	}
	g, ok := secure.NetConn().(*guest)
	if !ok {
		return
	}
	id, err := certs.PeerIdentity(secure.ConnectionState())
	if err != nil {
		return // it gets no answer
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if g.gone || g.device != "" {
		return
	}
	g.device = id.Name
	d.devices[g.device]++
	d.knocking = slices.DeleteFunc(d.knocking, func(k *guest) bool { return k == g })
}

// crowded reports whether a device has more connections open than it may keep.
func (d *door) crowded(device string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.devices[device] > maxOfDevice
}

// Close implements net.Conn.
func (g *guest) Close() error {
	g.door.mu.Lock()
	g.door.leave(g)
	g.door.mu.Unlock()
	return g.Conn.Close()
}

// on reports whether an address is one of the interfaces'; any is where none is named.
func on(a net.Addr, interfaces []string) bool {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || len(interfaces) == 0 {
		return ok
	}
	for _, name := range interfaces {
		i, err := net.InterfaceByName(name)
		if err != nil {
			continue
		}
		addrs, _ := i.Addrs() // one that has none is not it
		for _, own := range addrs {
			if p, ok := own.(*net.IPNet); ok && p.IP.Equal(tcp.IP) {
				return true
			}
		}
	}
	return false
}
