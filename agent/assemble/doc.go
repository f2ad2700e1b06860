// Package assemble makes an artifact's file on the device from blocks, with as few
// fetched bytes as it can (docs/artifacts.md).
//
// The file grows from its first block to its last, and only by blocks that were checked
// against the signed index. Whoever is interrupted, at any moment, finds the whole blocks
// after the next start and goes on behind them. For each segment of the artifact the plan
// chooses the way that costs the fewest bytes, or on battery the least energy: blocks that
// the device has already, blocks of other devices of its site (package peers), a segment of
// a delta from what it runs, packed blocks, or the artifact itself. A delta that looks
// through compression (package expand) is taken instead of the plain one where there is room
// for what it needs, unless making streams again takes more of a battery than the bytes that
// it saves (Energy).
//
// Where nothing may be fetched from the origin, Nearby takes what the other devices have, with
// the block index, and leaves the rest for later.
//
// Nobody who delivers is trusted. What is wrong costs what was just fetched: a wrong
// segment of a delta is fetched as packed blocks, a source that sends wrong blocks three
// times is not asked for that kind any more, and in the end there is always the
// artifact as a whole, as package fetch brings it.
package assemble
