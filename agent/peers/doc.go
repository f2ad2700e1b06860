// Package peers has the devices of one LAN copy blocks of artifacts from each other, so
// that a site fetches a release about once from the origin, however many devices it has
// (docs/peers.md).
//
// Each device is a small HTTPS server and a client of the others. Both sides prove
// themselves with their device certificates, of the same trust domain (certs.DeviceTLS);
// nobody else gets an answer. Devices find each other by multicast DNS (package mdns),
// or are listed.
//
//	GET /blocks/{sha256}            the block with that digest
//	GET /artifacts/{sha256}?after=N how much of an artifact there is, as JSON; with
//	                                "Prefer: wait=S" only when there are more than N
//	                                blocks, or after S seconds (RFC 7240)
//	GET /documents/{sha256}         what is needed to begin: a block index, or what the
//	                                image repository lists, as it was verified
//
// A device makes an artifact's file from its first block to its last, so what it has is
// one number. Where no peer has the next block, the devices that are there agree without
// talking whose turn it is: for each segment of an artifact the one with the highest hash
// of (artifact, segment, name) fetches it, and the others wait for its blocks as they
// come. Who does not deliver in time is passed over, for longer each time, and what it may
// cost is counted for the whole artifact, for each and for all together, by what the device
// brings itself in that time (worth.go); so is the time that answers and blocks take to
// come. So nobody waits for ever, and the worst that all others together can do is to cost a
// device time, and then the bytes that it would have fetched without them.
//
// A device that may fetch nothing from the origin now follows: it takes what others have and
// bring, and nobody waits for it.
//
// Nobody is trusted. What a peer sends is checked by the digest that the signed index
// names; one that sends something else is never asked again, by its certificate,
// whatever address or name it takes. What is announced may be anybody's: it names a place
// to ask at, and nothing that is held against a device or for it.
//
// A device says only what it has checked. What it has to take back, because what runs has
// changed it, it takes back by a state or by 410.
//
// A device takes part while it runs on mains power, or on a battery that is plugged in,
// and while the facts hold that its configuration names. What it gives is bounded: bytes
// a second, uploads at once, requests that wait, connections.
package peers
