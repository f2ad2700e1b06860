// Package machine keeps two copies of a whole system in two partitions, A and B, of
// which the bootloader boots one. The new version is written into the idle one, is
// booted from there on trial, and becomes the one that boots by itself only when it
// is confirmed.
//
// Which slot boots, and how often on trial, the bootloader is told by package boot.
// Which one runs, the kernel's command line says. What each partition holds is written
// down on a third one, which both systems mount, because reading a whole partition
// takes long:
//
//	{dir}/a.json  {dir}/b.json  {dir}/staging-...
//
// The running partition is never written. Of the idle one the first bytes, without
// which nothing can be loaded from it, are wiped before the rest is written, and come
// last, after the rest was written and synchronised: half of a system does not boot,
// whatever becomes of the machine meanwhile, not even as the bootloader's last resort.
package machine
