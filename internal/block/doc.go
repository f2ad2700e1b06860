// Package block is how an artifact is taken apart: into blocks that can be checked one
// by one, whoever delivered them.
//
// Blocks are cut where the content says so (FastCDC), so that what two versions have in
// common falls into the same blocks wherever it lies. Their lengths and SHA-256 make the
// Index, which the release role signs with the release: its digest stands in the
// release's TUF target. The device checks every block by it before it uses it, be it
// from what it runs, from a delta, from a store or from a peer.
//
// A block is delivered packed (Pack): compressed by zstd, if that makes it smaller. A
// Table says where each packed block of an artifact lies when they are put one behind
// the other, so that a device asks for the ones that it needs by ranges.
package block
