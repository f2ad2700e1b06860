// Package lzmaparse takes LZMA and LZMA2 streams apart, and puts them together again, bit
// for bit. What it makes of a stream is its parsed form: the content, and the parse, which
// is what the compressor chose to say of it: literals, matches, their lengths and
// distances, and where chunks begin. Where the content of two versions is alike, so are
// mostly the parses; the streams differ in every byte behind the first difference.
//
// To put a stream together takes no search for matches, and no dictionary in memory: a
// writer knows what was chosen. So it does not matter which program made a stream, at
// which level. A reader and a writer keep a MiB of content in memory; what lies farther
// back they read from where their caller keeps it.
//
// What is read may be hostile: every number is bounded before anything is allocated or
// read by it. docs/delta.md describes the parsed form. The streams are those of the xz file
// format 1.2.0 (the LZMA2 filter, without what is around it) and of the LZMA SDK's
// specification (with the head of a .lzma file).
package lzmaparse
