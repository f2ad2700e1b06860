package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// GRUB keeps its variables in an environment block: a file of 1024 bytes that begins
// with a signature, holds a line name=value for each, and is filled up with "#". (GRUB
// manual, section "The GRUB environment block".) What else is in it stays.
//
// grub-editenv, and GRUB itself, write into the file where it is. GRUB has to, and a
// power cut there leaves either sector old or new. Here the file is replaced.
type GRUB struct {
	Path string // of the file, for instance /boot/grub/grubenv
}

const (
	grubSignature = "# GRUB Environment Block\n"
	grubLength    = 1024
)

// Load implements Chain.
func (g GRUB) Load(context.Context) (State, error) {
	lines, err := g.read()
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, errNoBlock) {
		return stateOf(nil), nil // as GRUB takes it
	}
	if err != nil {
		return State{}, fmt.Errorf("%w: %w", ErrEnvironment, err)
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
	lines, err := g.read()
	if err != nil && !errors.Is(err, errNoBlock) && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrEnvironment, err)
	}
	block, err := grubBlock(lines, s)
	if err != nil {
		return err
	}
	if err := replace(g.Path, block); err != nil {
		return fmt.Errorf("%w: %w", ErrEnvironment, err)
	}
	return nil
}

// errNoBlock: the file is not an environment block. GRUB takes nothing from it either,
// so nothing is lost by replacing it.
var errNoBlock = errors.New("not a GRUB environment block")

// read returns the block's lines, of which an escaped one is one as well.
func (g GRUB) read() ([]string, error) {
	file, err := os.Open(g.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, grubLength+1))
	if err != nil {
		return nil, err
	}
	return grubLines(data)
}

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

// grubBlock is a block of these lines, with s in the place of what they say of it.
func grubBlock(lines []string, s State) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(grubSignature)
	variables := s.variables()
	for _, line := range lines {
		name, _, _ := strings.Cut(line, "=")
		if _, ours := variables[name]; !ours {
			b.WriteString(line + "\n")
		}
	}
	for _, name := range []string{VarActive, VarTrial, VarTries} {
		b.WriteString(name + "=" + variables[name] + "\n")
	}
	if b.Len() > grubLength {
		return nil, fmt.Errorf("%w: the block has no room for %d bytes", ErrEnvironment, b.Len())
	}
	return append(b.Bytes(), slices.Repeat([]byte("#"), grubLength-b.Len())...), nil
}

// replace puts data in the place of a file, durably.
func replace(path string, data []byte) error {
	tmp := path + ".new"
	file, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
