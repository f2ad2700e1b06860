// Package mdns finds the other devices of a LAN by DNS-based service discovery (RFC 6763)
// over multicast DNS (RFC 6762), for the one service "_groundswell._tcp.local.", and lets
// them find this one.
//
// What it finds is a hint and no more: anybody on the LAN may have sent it. A peer is
// where its packet came from, with the port that it names, so that nobody can point the
// devices of a site at a third host; packets from elsewhere than the link are ignored
// (RFC 6762, 11). Packets are bounded, and so is what is kept of them.
//
// Left out of RFC 6762: probing, because names are made from device certificates and
// nobody else has a reason to have the same (who has it all the same is found out by TLS);
// answers by unicast; and known answers that do not fit into one packet. Devices of other
// makes that browse the LAN see a correct service.
package mdns
