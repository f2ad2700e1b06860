// Package disk is all that the agent asks of a file system where something durable is
// at stake: the journal, the slots, the bootloader's memory. It is an interface so that
// a simulated disk can take its place, one that loses what was not synced, tears what
// was half written, and is cut off between any two calls.
//
// What survives a power cut is only what was synced: the content of a file by its own
// Sync, its name by SyncDir of its directory (POSIX, fsync; Linux, fsync(2), notes).
package disk
