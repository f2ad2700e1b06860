package fetch

import (
	"io"

	"groundswell/certs/trust"
)

// complete hashes the file when it is long enough to be all, and empties it
// when it is too long or wrong.
func (d *download) complete() (bool, error) {
	info, err := d.file.Stat()
	if err != nil {
		return false, d.disk(err)
	}
	d.have = info.Size()
	if d.have < d.Length {
		return false, nil
	}
	if d.have == d.Length {
		reader := trust.NewReader(eof{}, d.Length, d.SHA256)
		if err := d.prefix(reader); err != nil {
			return false, err
		}
		if _, err := reader.Read(make([]byte, 1)); err == io.EOF {
			return true, d.sync()
		}
	}
	return false, d.restart()
}

// sync makes the file durable. Where that fails, what was written may never get onto the
// disk, though it is read: it is thrown away.
func (d *download) sync() error {
	err := d.disk(d.file.Sync())
	if err != nil {
		_ = d.file.Truncate(0) // a disk that fails may refuse this as well
	}
	return err
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// prefix feeds what is in the file to the reader and leaves the file's position
// behind it.
func (d *download) prefix(reader *trust.Reader) error {
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return d.disk(err)
	}
	n, err := reader.Prefix(d.file)
	if err != nil {
		return d.disk(err)
	}
	d.have = n
	return nil
}

// restart throws away what is there.
func (d *download) restart() error {
	if err := d.file.Truncate(0); err != nil {
		return d.disk(err)
	}
	d.have, d.blamed, d.owner = 0, d.owner, ""
	_, err := d.file.Seek(0, io.SeekStart)
	return d.disk(err)
}

// disk remembers an error that no source can mend.
func (d *download) disk(err error) error {
	if err != nil {
		d.broken = err
	}
	return err
}
