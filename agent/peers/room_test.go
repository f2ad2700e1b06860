package peers

import (
	"net"
	"testing"
)

// caller is a connection from an address.
type caller struct {
	net.Conn
	ip string
}

func (c caller) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(c.ip), Port: 40000} }

// TestRoomIsMadeByTheAddressThatHasMost, by its oldest connection, and not for one of its own.
func TestRoomIsMadeByTheAddressThatHasMost(t *testing.T) {
	d := &door{devices: map[string]int{}}
	enter := func(ip string) (g, instead *guest) { return d.enter(caller{ip: ip}) }
	if g, _ := enter("198.18.0.2"); g == nil { // the oldest of all
		t.Fatal("there is no room")
	}
	first, _ := enter("198.18.0.66")
	for d.conns < maxConns {
		enter("198.18.0.66")
	}
	if g, instead := enter("198.18.0.66"); g != nil || instead != nil {
		t.Error("an address that has most gets one more")
	}
	if g, instead := enter("198.18.0.2"); g == nil || instead != first {
		t.Errorf("room is made by %+v", instead)
	}
	if d.conns != maxConns || len(d.knocking) != maxConns {
		t.Errorf("%d connections, %d of which have asked nothing", d.conns, len(d.knocking))
	}
}
