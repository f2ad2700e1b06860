package lzmaparse

import (
	"fmt"
	"io"
)

// kept reads content that is not in memory any more, a piece at a time: literals behind a
// match of such content ask for one byte after the other.
type kept struct {
	at    int64 // of the content: where the piece begins
	piece []byte
	room  [512]byte
}

func (k *kept) reset() { k.piece = nil }

// read gives n bytes of content from at on, at most maxLength, until its next call. left is
// how many bytes there are, n or more, and from where in r they stand.
func (k *kept) read(r io.ReaderAt, at, from, left int64, n int) ([]byte, error) {
	if skip := at - k.at; skip < 0 || skip+int64(n) > int64(len(k.piece)) {
		piece := k.room[:min(left, int64(len(k.room)))]
		k.piece = nil
		if got, err := r.ReadAt(piece, from); got < len(piece) {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read content that was kept: %w", err)
		}
		k.at, k.piece = at, piece
	}
	return k.piece[at-k.at:][:n], nil
}
