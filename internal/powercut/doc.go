// Package powercut runs a program in QEMU machines, so that a test can cut their
// power: the machine's memory, and with it what its kernel had not yet written to
// the disk, is gone when QEMU is killed. The kill of a process proves nothing of
// the kind, because the page cache outlives it.
//
// A machine is Debian's kernel with an initramfs of three things: the program
// guest (its init, see there), the program under test, and the test's files. Its
// one disk is a file of the host with ext4, mounted at DataDir; its one network is
// QEMU's own, with ports of the host's loopback forwarded into it, and the host's
// loopback reached at qemu.HostAddr. So several machines reach one another through the
// ports that are forwarded.
//
// What a test here shows, it shows down to the machine's block device: what the
// guest has flushed lies in the host's page cache, which survives, as the host
// keeps its power. That a real disk keeps what it was told to flush is the disk's
// promise, not ours. On the other hand QEMU keeps each write that the guest has
// handed over, flushed or not, as a disk without a volatile cache would.
package powercut
