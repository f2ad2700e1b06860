package certs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxFile bounds what is read of a certificate, key or list file, in bytes. A
// revocation list of a million entries is about 40 MB.
const maxFile = 64 << 20

// ReadPrivateFile reads a file that holds a secret. It is ErrPermissions when
// group or world can read or write it.
func ReadPrivateFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of the open file, so that nobody can swap it in between
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %04o, it needs 0600", ErrPermissions, path, mode)
	}
	return readAll(f, path)
}

// WritePrivateFile writes a file that holds a secret, with mode 0600, whole or
// not at all.
func WritePrivateFile(path string, data []byte) error { return writeFile(path, data, 0o600) }

// WritePublicFile writes a file that anybody may read, with mode 0644, whole
// or not at all.
func WritePublicFile(path string, data []byte) error { return writeFile(path, data, 0o644) }

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, path)
}

func readAll(r io.Reader, path string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrFile, path, maxFile)
	}
	return data, nil
}

func writeFile(path string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // CreateTemp makes it 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
