package mdns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

const port = 5353

var (
	groupV4 = netip.AddrPortFrom(netip.AddrFrom4([4]byte{224, 0, 0, 251}), port)
	groupV6 = netip.MustParseAddr("ff02::fb")
)

// socket is a group on an interface.
type socket struct {
	conn  *net.UDPConn
	group netip.AddrPort
	own   []netip.Prefix // of the interface
}

// open joins the group of IPv4 or IPv6 on an interface.
func open(name string, v6 bool) (*socket, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	own, err := networks(name, v6)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(own) == 0 {
		return nil, fmt.Errorf("%s: %w", name, errNoAddress)
	}
	network, group := "udp4", groupV4
	if v6 {
		network, group = "udp6", netip.AddrPortFrom(groupV6.WithZone(name), port)
	}
	conn, err := net.ListenMulticastUDP(network, i, net.UDPAddrFromAddrPort(group))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := tune(conn, v6); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &socket{conn, group, own}, nil
}

// errNoAddress: the interface has no address of that kind now.
var errNoAddress = errors.New("interface has no address")

// tune sets what RFC 6762 wants: a hop limit of 255 (11), programs on the same machine
// hear what is sent (15.1), and only what arrives by the interface is heard.
func tune(conn *net.UDPConn, v6 bool) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	type option struct{ level, name, value int }
	options := []option{{unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 255}, {unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 1}, {unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0}}
	if v6 {
		options = []option{{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255}, {unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 1}, {unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0}}
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for _, o := range options {
			failed = errors.Join(failed, unix.SetsockoptInt(int(fd), o.level, o.name, o.value))
		}
	})
	return errors.Join(err, failed)
}

// networks are those of an interface, in which its neighbours are.
func networks(name string, v6 bool) ([]netip.Prefix, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	addrs, err := i.Addrs()
	if err != nil {
		return nil, err
	}
	var own []netip.Prefix
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is6() == v6 {
			own = append(own, p)
		}
	}
	return own, nil
}

// onLink reports whether an address is that of a neighbour (RFC 6762, 11).
func (s *socket) onLink(a netip.Addr) bool {
	for _, p := range s.own {
		if p.Contains(a.WithZone("")) {
			return true
		}
	}
	return false
}

func (s *socket) addrs() []netip.Addr {
	var list []netip.Addr
	for _, p := range s.own {
		list = append(list, p.Addr())
	}
	return list[:min(len(list), 8)]
}

func (s *socket) send(raw []byte) error {
	_, err := s.conn.WriteToUDPAddrPort(raw, s.group)
	return err
}
