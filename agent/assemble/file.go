package assemble

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"groundswell/internal/block"
)

// file is an artifact in the making: whole blocks, from the first on.
type file struct {
	f     *os.File
	index block.Index
	at    int   // blocks that are there: those below it
	safe  int64 // bytes that are durable
}

// openFile keeps the whole blocks that the file begins with and cuts off what is behind
// them.
func openFile(path string, index block.Index) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	out := &file{f: f, index: index}
	if err := out.resume(); err != nil {
		f.Close()
		return nil, err
	}
	return out, nil
}

func (f *file) resume() error {
	info, err := f.f.Stat()
	if err != nil {
		return err
	}
	var buffer []byte
	for _, b := range f.index.Blocks[:within(f.index, info.Size())] {
		if cap(buffer) < b.Length {
			buffer = make([]byte, b.Length)
		}
		data := buffer[:b.Length]
		if _, err := f.f.ReadAt(data, b.Offset); err != nil {
			return err
		}
		if b.Check(data) != nil {
			break
		}
		f.at++
	}
	if err := f.f.Truncate(f.have()); err != nil {
		return err
	}
	_, err = f.f.Seek(f.have(), io.SeekStart)
	return err
}

// within is how many whole blocks so many bytes have.
func within(index block.Index, size int64) int {
	i := slices.IndexFunc(index.Blocks, func(b block.Block) bool { return b.Offset+int64(b.Length) > size })
	if i < 0 {
		return len(index.Blocks)
	}
	return i
}

// begins is where block i begins, or the artifact ends.
func begins(index block.Index, i int) int64 {
	if i == len(index.Blocks) {
		return index.Length
	}
	return index.Blocks[i].Offset
}

// have is how many bytes are there.
func (f *file) have() int64 { return begins(f.index, f.at) }

func (f *file) done() bool { return f.at == len(f.index.Blocks) }

// add appends the next block, which was checked. Its error is the disk's.
func (f *file) add(data []byte) error {
	if _, err := f.f.Write(data); err != nil {
		return diskError{fmt.Errorf("write block %d: %w", f.at, err)}
	}
	f.at++
	return nil
}

// sync makes durable what is there: what was fetched need not come again even after a
// power cut.
func (f *file) sync() error {
	if err := f.f.Sync(); err != nil {
		// What is behind it may never get onto the disk, though it is read. A disk that
		// fails may refuse this as well.
		_ = f.f.Truncate(f.safe)
		return diskError{fmt.Errorf("synchronise block %d: %w", f.at, err)}
	}
	f.safe = f.have()
	return nil
}

// close synchronises what is there, so that it need not come again.
func (f *file) close() error {
	return errors.Join(f.sync(), f.f.Close())
}

// diskError is what no source can mend.
type diskError struct{ error }

func (e diskError) Unwrap() error { return e.error }

func digestOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
