package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"groundswell/agent/disk"
)

// GRUB keeps its variables in an environment block: a file of 1024 bytes that begins
// with a signature, holds a line name=value for each, and is filled up with "#". (GRUB
// manual, section "The GRUB environment block".) What else is in it stays.
//
// Both GRUB and we write into the file where it is, and only its first sector: that is
// all old or all new after a power cut, as long as the disk keeps sectors whole. A file
// that takes the old one's place would not do, because GRUB reads the file system
// without its journal: for half a minute after the renaming it finds the old file, and
// for a moment none.
type GRUB struct {
	Path string // of the file, for instance /boot/grub/grubenv
	// On is where it is; nil: on the machine's own file system.
	On disk.FS
}

const (
	grubSignature = "# GRUB Environment Block\n"
	grubLength    = 1024
	grubSector    = 512
)

// Load implements Chain.
func (g GRUB) Load(context.Context) (State, error) {
	data, err := g.read()
	if errors.Is(err, os.ErrNotExist) {
		return stateOf(nil), nil
	}
	if err != nil {
		return State{}, fmt.Errorf("%w: %w", ErrEnvironment, err)
	}
	lines, err := grubLines(data)
	if err != nil {
		return stateOf(nil), nil // as GRUB takes it
	}
	variables := map[string]string{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		variables[name] = value
	}
	return stateOf(variables), nil
}

// Store implements Chain.
func (g GRUB) Store(_ context.Context, s State) error {
	if err := s.Validate(); err != nil {
		return err
	}
	old, err := g.read()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrEnvironment, err)
	}
	lines, _ := grubLines(old) // of what is no block, nothing is kept
	block, err := grubBlock(lines, s)
	if err != nil {
		return err
	}
	// Another second sector means that our variables are not in the first one yet, and
	// that GRUB was never told anything.
	store := disk.Replace
	if len(old) == grubLength && bytes.Equal(old[grubSector:], block[grubSector:]) {
		store = overwrite
	}
	if err := store(g.on(), g.Path, block, 0o600); err != nil {
		return fmt.Errorf("%w: %w", ErrEnvironment, err)
	}
	return nil
}

// errNoBlock: the file is not an environment block. GRUB takes nothing from it either,
// so nothing is lost by replacing it.
var errNoBlock = errors.New("not a GRUB environment block")

// read returns the file, and not much more than a block of it.
func (g GRUB) read() ([]byte, error) {
	return disk.ReadFile(g.on(), g.Path, grubLength+1)
}

func (g GRUB) on() disk.FS {
	if g.On == nil {
		return disk.OS
	}
	return g.On
}

// grubLines are a block's lines, of which an escaped one is one as well.
func grubLines(data []byte) ([]string, error) {
	if len(data) != grubLength || !bytes.HasPrefix(data, []byte(grubSignature)) {
		return nil, fmt.Errorf("%w: %d bytes", errNoBlock, len(data))
	}
	var lines []string
	for rest := string(data[len(grubSignature):]); ; {
		if strings.HasPrefix(rest, "#") { // a warning to people, or what fills it up
			_, after, found := strings.Cut(rest, "\n")
			if !found {
				return lines, nil
			}
			rest = after
			continue
		}
		end := 0
		for end < len(rest) && rest[end] != '\n' {
			if rest[end] == '\\' {
				end++ // whatever follows is part of the value
			}
			end++
		}
		if end >= len(rest) {
			return lines, nil // without an end it is no variable
		}
		lines, rest = append(lines, rest[:end]), rest[end+1:]
	}
}

// grubBlock is a block of these lines, with s before them in the place of what they
// say of it. What s is told with has the same length always, so that nothing moves.
func grubBlock(lines []string, s State) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(grubSignature)
	ours := map[string]bool{}
	for _, v := range s.variables() {
		ours[v.name] = true
		b.WriteString(v.name + "=" + v.value + "\n")
	}
	for _, line := range lines {
		if name, _, _ := strings.Cut(line, "="); !ours[name] {
			b.WriteString(line + "\n")
		}
	}
	if b.Len() > grubLength {
		return nil, fmt.Errorf("%w: the block has no room for %d bytes", ErrEnvironment, b.Len())
	}
	return append(b.Bytes(), slices.Repeat([]byte("#"), grubLength-b.Len())...), nil
}

// overwrite writes data into a file where it is, durably.
func overwrite(on disk.FS, path string, data []byte, _ fs.FileMode) error {
	file, err := on.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(data, 0)
	return errors.Join(err, file.Sync(), file.Close())
}
