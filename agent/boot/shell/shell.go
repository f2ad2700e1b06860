// Package shell has a shell run the bootloaders' scripts, on environments that the
// bootloaders' own tools read and write: for tests, where no machine boots.
package shell

import (
	"fmt"
	"regexp"

	"groundswell/agent/boot"
)

// setLine is how GRUB assigns; a shell does without the word.
var setLine = regexp.MustCompile(`\bset ([a-z_]+=)`)

// GRUB is a program for /bin/sh that does what boot.ScriptGRUB does with an environment
// block, and prints the slot to boot and the one to take if that cannot be loaded.
func GRUB(block string) string {
	return fmt.Sprintf(`
		load_env() { eval "$(grub-editenv %[1]s list 2>/dev/null | sed -n "s/^\(groundswell_[a-z]*\)=\(.*\)/\1='\2'/p")"; }
		save_env() { grub-editenv %[1]s set "$1=$(eval echo "\$$1")"; }
		`, block) + setLine.ReplaceAllString(boot.ScriptGRUB, "$1") + "\necho $default $fallback | tr 01 ab\n"
}

// UBoot is the same with boot.ScriptUBoot and the environment that config names.
func UBoot(config string) string {
	return fmt.Sprintf(`
		setenv() { name="$1"; shift; eval "$name=\"\$*\""; }
		saveenv() { fw_setenv -c %[1]s groundswell_tries "$groundswell_tries"; }
		eval "$(fw_printenv -c %[1]s | sed -n "s/^\(groundswell_[a-z]*\)=\(.*\)/\1='\2'/p")"
		`, config) + boot.ScriptUBoot + "\necho $groundswell_slot $groundswell_other\n"
}
