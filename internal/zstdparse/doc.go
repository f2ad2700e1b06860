// Package zstdparse takes zstd frames (RFC 8878) apart and puts them together again, bit
// for bit, without looking for matches: what no program can be asked to do twice alike, as
// each version of each compressor at each level chooses its own sequences.
//
// A Reader makes of a frame its parsed form: for each block what the compressor chose (the
// parse: kind of block, tables, sequences), then what the block holds (its content, the
// uncompressed bytes). A delta between two parsed forms is small where the content differs
// little, since the parse then does too. A Writer makes the frame of the form: from the
// parse, the literals (content that no match covers) and the tables follow all bits of the
// frame but one choice, which state an entropy coder begins with. That choice is libzstd's:
// the smallest state of the symbol. Frames of libzstd come out as they were, at each level;
// those of other encoders may not, nor does a frame that spends more bytes on a number than
// it must. Nobody here notices: the caller compares (package expand).
//
// The parsed form, numbers little endian:
//
//	frame header, as in the frame, magic number included   6 to 18 bytes
//	for each block:
//	  kind of the block, last or not, literals (form.go)   1 byte
//	  modes of the sequences' tables, as in the frame      1
//	  length of the content                                3, at most 128 KiB
//	  sequences, how many                                  3
//	  long lengths, how many                               2
//	  length of the Huffman tree's description             1
//	  of the tables of literal lengths, offsets, matches   1 each
//	  these descriptions, as in the frame
//	  sequences: literal length, match length - 3, offset value; 255 is a long length
//	  long lengths, in the order of the sequences
//	  content
//	checksum, as in the frame, where there is one          4
//
// Frames with a dictionary and skippable frames are ErrUnsupported. Frames and forms may
// be hostile: all numbers are checked before anything is allocated or read by them, and
// a Reader takes no more than 2 MB and a Writer no more than 2 MB, whatever they are given. A Reader
// keeps the last 256 KiB of content; where a match reaches back farther, it reads the form that
// it gave before.
package zstdparse

import "errors"

var (
	// ErrTruncated is a frame or a form that ends early.
	ErrTruncated = errors.New("zstd frame or its parsed form is truncated")
	// ErrCorrupt is a frame against RFC 8878, or a form that is of no frame.
	ErrCorrupt = errors.New("zstd frame or its parsed form is corrupt")
	// ErrTooLarge is a frame whose form is longer than MaxForm.
	ErrTooLarge = errors.New("parsed form of a zstd frame is too large")
	// ErrTooFar is a match farther back than a Reader can look: beyond Window without
	// a form to read, or beyond the last 65,536 blocks.
	ErrTooFar = errors.New("zstd match is too far back")
	// ErrUnsupported is a frame with a dictionary, or a skippable one.
	ErrUnsupported = errors.New("zstd frame has a dictionary or is skippable")
)

const (
	// Window is how many bytes of content a Reader keeps for matches.
	Window = 256 << 10
	// MaxForm is the longest parsed form, in bytes.
	MaxForm = 1<<31 - 1

	maxBlock = 128 << 10 // of content, and in the frame (RFC 8878, 3.1.1.2)

	// A block that is not in memory, and 64 KiB that a caller has at hand, are given before.
	_ = uint(Window - maxBlock - 64<<10)
)
