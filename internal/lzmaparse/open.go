package lzmaparse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// open reads what a chunk begins with, or the end of the stream.
func (r *Reader) open() error {
	if r.kind == LZMA {
		if r.window.from == 0 {
			r.ended = true
			return nil
		}
		return r.openAlone()
	}
	h := &r.head
	if err := r.full(h[:1]); err != nil {
		return err
	}
	control := h[0]
	switch {
	case control == 0:
		r.ended = true
		return nil
	case control == 1 || control == 2:
		if err := r.full(h[1:3]); err != nil {
			return err
		}
		r.begin = group{begin: beginStored}
		if control == 1 {
			r.begin.begin = beginStoredIn
			r.window.from = r.window.at
		}
		r.left = int64(binary.BigEndian.Uint16(h[1:])) + 1
		if r.window.from < 0 {
			return fmt.Errorf("%w: no dictionary", ErrCorrupt)
		}
		return r.load(int(r.left))
	case control < 0x80:
		return fmt.Errorf("%w: control byte %#x", ErrCorrupt, control)
	}
	if err := r.full(h[1:5]); err != nil {
		return err
	}
	r.begin = group{begin: beginChunk + begin(control>>5&3)}
	r.left = int64(control&0x1f)<<16 + int64(binary.BigEndian.Uint16(h[1:])) + 1
	length := int(binary.BigEndian.Uint16(h[3:])) + 1
	if r.begin.begin >= beginProperties {
		if err := r.full(h[5:6]); err != nil {
			return err
		}
		r.begin.properties = h[5]
		if err := r.model.properties(h[5]); err != nil {
			return err
		}
	}
	if r.begin.begin == beginDictionary {
		r.window.from = r.window.at
	}
	if r.begin.begin >= beginState {
		r.model.reset()
	}
	if r.window.from < 0 || len(r.model.literals) == 0 {
		return fmt.Errorf("%w: no dictionary, or no state", ErrCorrupt)
	}
	if err := r.load(length); err != nil {
		return err
	}
	return r.coder.decode(r.chunk, nil)
}

// openAlone reads the head of an LZMA stream.
func (r *Reader) openAlone() error {
	if err := r.load(headAlone + coderHead); err != nil {
		return err
	}
	if err := r.model.properties(r.chunk[0]); err != nil {
		return err
	}
	r.left = int64(binary.LittleEndian.Uint64(r.chunk[5:]))
	if r.left < -1 {
		return fmt.Errorf("%w: content of %d bytes", ErrTooLarge, uint64(r.left))
	}
	r.model.reset()
	r.window.from = 0
	r.begin = group{begin: beginAlone}
	head := [coderHead]byte(r.chunk[headAlone:])
	buffer := make([]byte, 4<<10)
	return r.coder.decode(head[:], func() ([]byte, error) {
		n, err := io.ReadAtLeast(r.src, buffer, 1)
		return buffer[:n], err
	})
}

func (r *Reader) load(n int) error {
	if cap(r.chunk) < n {
		r.chunk = make([]byte, maxChunk)
	}
	r.chunk = r.chunk[:n]
	return r.full(r.chunk)
}

func (r *Reader) full(p []byte) error {
	_, err := io.ReadFull(r.src, p)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return err
}
