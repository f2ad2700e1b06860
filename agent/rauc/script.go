package rauc

import _ "embed"

// ScriptGRUB and ScriptUBoot choose the slot as RAUC wants it, in the bootloader's own
// language, for the bootnames a and b. Their own comments say where they belong.
var (
	//go:embed grub.cfg
	ScriptGRUB string
	//go:embed u-boot.cmd
	ScriptUBoot string
)
