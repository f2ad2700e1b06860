package devstack

import (
	"net"
	"testing"
)

func TestFreeAddrGivesNoAddressTwice(t *testing.T) {
	seen := map[string]bool{}
	for range blockSize - 1 {
		addr, err := FreeAddr()
		if err != nil {
			t.Fatal(err)
		}
		if seen[addr] {
			t.Fatalf("%s is given twice", addr)
		}
		seen[addr] = true
		if l, err := net.Listen("tcp", addr); err != nil {
			t.Fatal(err)
		} else if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// Another process cannot take the block.
	if l, err := net.Listen("tcp", loopback(block.first)); err == nil {
		l.Close()
		t.Fatal("the block is not held")
	}
}
