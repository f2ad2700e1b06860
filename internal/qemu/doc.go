// Package qemu is what machines in QEMU have in common, whatever runs in them: the
// tools, how the processor is made, the network, Debian's kernel, and archives that a
// kernel unpacks. What runs inside, as init, finds its part in the package inside.
//
// KVM is used where the processor has it; otherwise QEMU emulates, which is some
// twenty times slower and just as true. What it takes is brought by scripts/setup with
// the argument "machines".
package qemu
