// Package simulation runs devices through updates with everything going wrong that may,
// many thousand of them, in no time: the real driver, journal, trust and slots, on a
// simulated disk, in simulated time, with a bootloader that is a model of the script and
// versions that panic, hang, or are never heard of again.
//
// What goes wrong comes from a seed: kills and power cuts before, after and between any
// two changes of the disk; what was not synced is torn; the disk is full, fails, or is
// mounted read-only for a while; the network and the server are down; messages come
// twice, late, and in another order; downloads bring wrong bytes; the clock jumps. The
// same seed gives the same run.
//
// What has to hold, always: what boots was signed, whole, and is what the journal and
// the bootloader say; a version that is not well never boots by itself; of each attempt
// exactly one end is reported, however often that comes; the device ends idle, managed,
// on the newest version that was well. A device that can boot nothing, or that nobody
// can reach any more, is a brick.
//
// All of it is in tests: a matrix that cuts one update off at each change of the disk
// there is, a thousand random runs, and many more by "make simulate".
package simulation
