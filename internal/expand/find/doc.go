// Package find makes the deltas that package expand reads: it looks for deflate streams
// in two images, finds out by trying how those of the new one were made, and encodes what
// they hold. A stream that was made in no way that is known is taken apart (package
// deflateparse), and then those of the old one are, too. It is for those who make deltas; no
// device has it.
//
// Streams are found by what stands before them: a head of gzip, of zlib (which is how
// squashfs keeps its blocks) or of a file in a zip archive. One is taken if all of it can
// be inflated, and if its checksum is right where it has one.
package find
