// Package delta makes a new image out of an old one and few bytes. The server
// encodes a pair once, with the whole of both in memory; a device decodes it one
// segment after the other, reads its old image at offsets and needs no more memory
// than a segment, the list of copies and the models.
//
// A delta is a head and segments. The head says which ranges of the old image
// appear where in the new one (found over a suffix array, as in bsdiff: the ranges
// need not be equal, only alike). A segment says what differs: what its copies lack,
// and the bytes between them. With the head and the old image each segment can be
// decoded by itself, in any order, so an interruption costs one segment.
//
// Three things make it small. Addresses inside the copied ranges (branches, loads,
// pointers) are rewritten to what they must be in the new image, by the head's list
// of copies, before the difference is taken. The difference is taken by words.
// And it is coded by a mix of adaptive models ([Mixed]) where the device can afford
// that, else by zstd ([Zstd]).
//
// Nothing here authenticates anything. The caller checks each block it gets against
// a signed index. But what the decoder reads may be hostile: every number is bounded
// before anything is allocated or read by it, every refusal has a sentinel, and wrong
// input that passes for a delta yields wrong bytes, never a panic or endless work.
// docs/delta.md describes the format and what was measured.
package delta
