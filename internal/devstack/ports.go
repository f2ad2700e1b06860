package devstack

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
)

const (
	// Ports from firstPort on are handed out, in blocks, up to where Linux begins
	// with those that it gives to outgoing connections (ip_local_port_range): such
	// a one may be taken at any moment.
	firstPort = 12000
	lastPort  = 32700
	blockSize = 300
)

// block is what this process hands out. The listener on its first port keeps
// other processes out of it, and ends with this one.
var block struct {
	sync.Mutex
	held  net.Listener
	first int
	given int
}

// FreeAddr returns a 127.0.0.1 address that is free and that no other caller, in
// this process or another, is given for a long time. Use port 0 instead wherever
// the process can say what it bound; this is for addresses that must stay the
// same over a restart, or that others must know before.
func FreeAddr() (string, error) {
	block.Lock()
	defer block.Unlock()
	if block.held == nil {
		if err := takeBlock(); err != nil {
			return "", err
		}
	}
	for range blockSize {
		block.given++
		addr := loopback(block.first + 1 + (block.given-1)%(blockSize-1))
		if l, err := net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", fmt.Errorf("free address: all of the ports from %d to %d are in use", block.first, block.first+blockSize-1)
}

// takeBlock takes the first block that no other process holds.
func takeBlock() error {
	for first := firstPort; first+blockSize <= lastPort; first += blockSize {
		l, err := net.Listen("tcp", loopback(first))
		if err == nil {
			block.held, block.first = l, first
			return nil
		}
	}
	return errors.New("free address: no block of ports is free")
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
