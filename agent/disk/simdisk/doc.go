// Package simdisk is a disk in memory for simulations, which does to what was not synced
// whatever a real one may do when the power goes.
//
// What is written goes to a cache, which all that reads sees. A power cut keeps of it
// what was synced, and of the rest what chance decides: of each file some sectors of
// some writes, in any order; of each directory the first of its changes, in order,
// because file systems keep a journal of those. A file whose name was kept may be empty,
// and one whose content was synced may have no name. Only a sector (512 bytes) is always
// old or new as a whole, as disks promise.
//
// Each change of the disk is numbered and can be refused (a full disk), cut off before
// or after (kill -9, a power cut), or half done. After a cut nothing works any more,
// for whoever still has the disk, until Restart.
//
// One goroutine at a time may use it.
package simdisk
