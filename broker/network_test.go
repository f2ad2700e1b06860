//go:build long

package main

import (
	"fmt"
	"testing"

	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/netns"
)

// inNetwork says that this process has the two networks; see netns.Inside.
func inNetwork(t *testing.T) bool {
	t.Helper()
	devtest.Binaries(t) // inside there is no way to what a build might fetch
	if !netns.Inside(t) {
		return false
	}
	netns.Bridge(t, "clients", clientNet+ownHost+"/24")
	netns.Bridge(t, "peers", "")
	return true
}

// Two networks, each a bridge: one that clients and /readyz come by, and one that
// the nodes have for themselves. Addresses are from what is set aside for
// measuring [RFC 2544], and only this process and its children see them.
const (
	clientNet = "198.18.0."
	peerNet   = "198.18.1."
	ownHost   = "254"
)

// addNode makes a namespace with an address in both networks.
func addNode(t *testing.T, n int) {
	t.Helper()
	name := nodeName(n)
	netns.IP(t, "netns add "+name)
	netns.IP(t, "-n "+name+" link set lo up")
	for bridge, prefix := range map[string]string{"clients": clientNet, "peers": peerNet} {
		netns.IP(t, fmt.Sprintf("link add %s-%d type veth peer name %s netns %s", bridge, n, bridge, name))
		netns.IP(t, fmt.Sprintf("link set %s-%d master %s up", bridge, n, bridge))
		netns.IP(t, fmt.Sprintf("-n %s addr add %s%d/24 dev %s", name, prefix, n, bridge))
		netns.IP(t, fmt.Sprintf("-n %s link set %s up", name, bridge))
	}
}

func nodeName(n int) string { return fmt.Sprintf("node-%d", n) }

// plug connects a node with the others, or takes it off: packets are lost, and
// nobody is told.
func plug(t *testing.T, n int, in bool) {
	t.Helper()
	state := map[bool]string{true: "up", false: "down"}[in]
	netns.IP(t, fmt.Sprintf("link set peers-%d %s", n, state))
}
