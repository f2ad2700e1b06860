package boottest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"groundswell/internal/qemu"
)

const (
	ubootROM = "/usr/lib/u-boot/qemu-x86_64/u-boot.rom"

	envStart, envBytes = mib / 2, 1 << 16 // before the first partition
	boardBytes         = bootStart + bootBytes
)

// ubootScript reads the environment, runs the script, and says what it sets.
const ubootScript = `virtio scan
virtio read 0x1000000 %[1]x %[2]x
env import -c 0x1000000 %[3]x
setenv persist "env export -c -s %[3]x 0x1000000; virtio write 0x1000000 %[1]x %[2]x"
%[4]s
%[5]s
reset
`

// MakeUBoot makes a board with Debian's U-Boot for QEMU. Its environment lies on the disk,
// where the tools of a running system find it.
//
// This U-Boot cannot save its environment by itself. So the script has to say "run
// persist" where it says "saveenv", which writes the environment in U-Boot's own format;
// or it says "saveenv", and sees it fail.
//
// environment is what there is at first; the board says what is in the variables said.
func MakeUBoot(ctx context.Context, dir, script string, environment map[string]string, said ...string) (*Board, error) {
	if _, err := os.Stat(ubootROM); err != nil {
		return nil, fmt.Errorf("%s is %w", ubootROM, qemu.ErrSetup)
	}
	// It waits two seconds for a key. Its clock is that of its processor, which is a slow
	// one, and so they are soon over.
	b := &Board{dir: dir, options: []string{"-icount", "shift=7", "-bios", ubootROM}}
	disk, err := os.Create(b.disk())
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	if err := disk.Truncate(boardBytes); err != nil {
		return nil, err
	}
	text := fmt.Sprintf(ubootScript, envStart/sector, envBytes/sector, envBytes, script, say(said))
	if err := writeFile(filepath.Join(dir, "tree", "boot.scr"), string(scriptImage([]byte(text)))); err != nil {
		return nil, err
	}
	if err := placeFS(ctx, disk, bootStart, bootBytes, filepath.Join(dir, "tree"), filepath.Join(dir, "tree.img")); err != nil {
		return nil, err
	}
	table := make([]byte, sector)
	entry := table[446:][:16]
	entry[0], entry[4] = 0x80, 0x83 // to be booted, Linux
	binary.LittleEndian.PutUint32(entry[8:], bootStart/sector)
	binary.LittleEndian.PutUint32(entry[12:], bootBytes/sector)
	table[510], table[511] = 0x55, 0xaa
	env := make([]byte, 4, envBytes) // of the checksum
	for name, value := range environment {
		env = append(env, name+"="+value+"\x00"...)
	}
	env = env[:envBytes]
	binary.LittleEndian.PutUint32(env, crc32.ChecksumIEEE(env[4:]))
	for at, data := range map[int64][]byte{0: table, envStart: env} {
		if _, err := disk.WriteAt(data, at); err != nil {
			return nil, err
		}
	}
	if err := writeFile(b.Config(), fmt.Sprintf("%s %#x %#x\n", b.disk(), envStart, envBytes)); err != nil {
		return nil, err
	}
	return b, disk.Close()
}

// Config is the fw_env.config of a board with U-Boot.
func (b *Board) Config() string { return filepath.Join(b.dir, "fw_env.config") }

// scriptImage is what mkimage -T script makes (U-Boot, include/image.h: legacy image, of
// type script, whose data begins with the length of the script and a zero).
func scriptImage(script []byte) []byte {
	var data bytes.Buffer
	length := binary.BigEndian.AppendUint32(nil, uint32(len(script)))
	data.Write(append(length, 0, 0, 0, 0))
	data.Write(script)
	head := make([]byte, 64)
	binary.BigEndian.PutUint32(head, 0x27051956)
	binary.BigEndian.PutUint32(head[12:], uint32(data.Len()))
	binary.BigEndian.PutUint32(head[24:], crc32.ChecksumIEEE(data.Bytes()))
	copy(head[28:], []byte{5, 3, 6, 0}) // Linux, x86, script, not compressed
	binary.BigEndian.PutUint32(head[4:], crc32.ChecksumIEEE(head))
	return append(head, data.Bytes()...)
}
