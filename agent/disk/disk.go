package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// File is an open file.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.WriterAt
	io.Seeker
	io.Closer
	// Sync makes the content durable.
	Sync() error
}

// FS is a file system. Flags, modes and errors are those of package os.
type FS interface {
	OpenFile(path string, flag int, mode fs.FileMode) (File, error)
	// Stat follows links, Lstat does not.
	Stat(path string) (fs.FileInfo, error)
	Lstat(path string) (fs.FileInfo, error)
	Glob(pattern string) ([]string, error)
	Readlink(path string) (string, error)

	MkdirAll(path string, mode fs.FileMode) error
	Chmod(path string, mode fs.FileMode) error
	Remove(path string) error
	Rename(from, to string) error
	Link(from, to string) error
	Symlink(target, path string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(path string) error
}

// OS is the machine's own.
var OS FS = system{}

type system struct{}

func (system) OpenFile(path string, flag int, mode fs.FileMode) (File, error) {
	file, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err // and not a File that holds a nil
	}
	return file, nil
}

func (system) Stat(path string) (fs.FileInfo, error)        { return os.Stat(path) }
func (system) Lstat(path string) (fs.FileInfo, error)       { return os.Lstat(path) }
func (system) Glob(pattern string) ([]string, error)        { return filepath.Glob(pattern) }
func (system) Readlink(path string) (string, error)         { return os.Readlink(path) }
func (system) MkdirAll(path string, mode fs.FileMode) error { return os.MkdirAll(path, mode) }
func (system) Chmod(path string, mode fs.FileMode) error    { return os.Chmod(path, mode) }
func (system) Remove(path string) error                     { return os.Remove(path) }
func (system) Rename(from, to string) error                 { return os.Rename(from, to) }
func (system) Link(from, to string) error                   { return os.Link(from, to) }
func (system) Symlink(target, path string) error            { return os.Symlink(target, path) }

func (system) SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Open opens a file for reading.
func Open(on FS, path string) (File, error) { return on.OpenFile(path, os.O_RDONLY, 0) }

// ReadFile returns what is in a file, at most limit bytes of it.
func ReadFile(on FS, path string, limit int64) ([]byte, error) {
	file, err := Open(on, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, limit))
}

// Sync makes durable what is in a file. When it fails, what is read of the file may never
// get onto the disk, whatever a later Sync says: the file is to be written anew.
func Sync(on FS, path string) error {
	file, err := Open(on, path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// WriteSynced writes a file from its beginning, durably as far as its content goes. A
// part of it is not left behind.
func WriteSynced(on FS, path string, data []byte, mode fs.FileMode) error {
	file, err := on.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		_ = on.Remove(path) // of no use to anybody
		return err
	}
	return nil
}

// Replace puts data in the place of a file, durably: after a power cut the file is as it
// was, or all new. What it is called meanwhile is the path with ".new" behind it.
func Replace(on FS, path string, data []byte, mode fs.FileMode) error {
	tmp := path + ".new"
	if err := WriteSynced(on, tmp, data, mode); err != nil {
		return err
	}
	if err := on.Rename(tmp, path); err != nil {
		return err
	}
	return on.SyncDir(filepath.Dir(path))
}

// Remove removes a file durably; that it is not there is no error, not even on a disk
// that is read-only. It may be one that failed before that removed it: the directory is
// synchronised in any case.
func Remove(on FS, path string) error {
	_, err := on.Lstat(path)
	if err == nil {
		err = on.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	absent := err != nil
	err = on.SyncDir(filepath.Dir(path))
	if absent && (errors.Is(err, syscall.EROFS) || errors.Is(err, os.ErrNotExist)) {
		return nil
	}
	return err
}
