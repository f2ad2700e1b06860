package boot

import _ "embed"

// ScriptGRUB and ScriptUBoot choose the slot, in the bootloader's own language. They
// do what State says; their own comments say where they belong.
var (
	//go:embed grub.cfg
	ScriptGRUB string
	//go:embed u-boot.cmd
	ScriptUBoot string
)
