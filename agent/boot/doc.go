// Package boot tells a bootloader which of two slots to boot, and how often.
//
// All bootloaders are told the same three things, under the same names, in the
// environment that each has for that (State). The script that reads them, in the
// bootloader's own language, is here too: Script.
//
//   - The active slot boots by itself.
//   - A slot on trial boots as long as tries are left. The bootloader takes one off
//     and writes that down before it boots the trial; when it cannot write, or none
//     is left, it boots the active slot. So a version that does not come up, and
//     whatever resets the machine (a panic, a watchdog, a battery taken out), ends
//     on the active slot, and nobody has to be alive for that.
//   - A slot that cannot be loaded is passed over for the other one. That also
//     brings a machine up whose environment was lost, because a slot that is being
//     written cannot be loaded until all of it is there (package machine).
//
// Writing replaces everything at once, or nothing: in the GRUB environment block as
// one sector of the disk, in U-Boot's environment as its own tools do it, which keep two
// copies where fw_env.config names two.
package boot
