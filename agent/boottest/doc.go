// Package boottest has machines in QEMU that boot as devices do: firmware, GRUB, a
// kernel and an initramfs from one of two partitions, and there the agent, which
// updates the whole system over the network from a real fleetd.
//
// The disk is laid out as docs/boot.md has it: a partition with GRUB's configuration
// and environment, which sources the script that the agent brings (boot.ScriptGRUB),
// the slots A and B, and one for data, with the device's certificate and the agent's
// configuration. GRUB is Debian's, and so is the kernel. A system, which is what a
// release brings, is the image of a file system with kernel, initramfs, agent, a file
// with its version, and a userland of one small program (see userland).
//
// A Board is less: the bootloader alone, Debian's GRUB or U-Boot, which counts by the
// scripts that the agent and RAUC's slots bring (boot.ScriptUBoot, rauc.ScriptGRUB,
// rauc.ScriptUBoot).
//
// A machine's SIGKILL is the cut of its power. What that shows, and what not, package
// powercut says.
package boottest
