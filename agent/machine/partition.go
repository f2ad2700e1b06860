package machine

import (
	"errors"
	"fmt"
	"io"
	"os"

	"groundswell/agent/disk"

	"golang.org/x/sys/unix"
)

// write makes a partition begin with the content of a file, chunk bytes at a time, the
// first of them last. Until it returns nil, nothing can be loaded from the partition.
func write(on disk.FS, partition, from string, length, chunk int64) error {
	in, err := disk.Open(on, from)
	if err != nil {
		return err
	}
	defer in.Close()
	// Never made: a wrong path must not fill /dev. O_EXCL without O_CREAT is open(2)'s for
	// devices: one that is mounted, by whatever name, is not opened.
	out, err := on.OpenFile(partition, os.O_WRONLY|os.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%s is in use: it is mounted, and perhaps what runs: %w", partition, err)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(fill(out, in, length, chunk), out.Close()); err != nil {
		return fmt.Errorf("%s: %w", partition, err)
	}
	return nil
}

func fill(out disk.File, in io.ReaderAt, length, chunk int64) error {
	room, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if room < length {
		return fmt.Errorf("has %d bytes, the image %d", room, length)
	}
	first := min(chunk, length)
	if _, err := out.WriteAt(make([]byte, min(chunk, room)), 0); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	buf := make([]byte, chunk)
	for at := first; at < length; {
		n := min(chunk, length-at)
		if err := read(in, buf[:n], at); err != nil {
			return err
		}
		if _, err := out.WriteAt(buf[:n], at); err != nil {
			return err
		}
		at += n
	}
	if err := out.Sync(); err != nil {
		return err
	}
	if err := read(in, buf[:first], 0); err != nil {
		return err
	}
	if _, err := out.WriteAt(buf[:first], 0); err != nil {
		return err
	}
	return out.Sync()
}

// read fills buf, or fails.
func read(in io.ReaderAt, buf []byte, at int64) error {
	if n, err := in.ReadAt(buf, at); n < len(buf) {
		return err
	}
	return nil
}
