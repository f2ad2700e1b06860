// Package expand looks through compression. A delta of this package is one of package
// delta between the expanded forms of two images: what they hold, with the content of
// their compressed streams (in kernels, squashfs, archives) instead of the streams. Where
// the content differs by little, the streams differ in nearly every byte. Of xz, lzma and
// zstd streams, and of deflate streams that neither zlib nor GNU gzip made, it is the parsed
// form: the content, and what their compressor made of it.
//
// Nothing on the device looks for streams: the head of such a delta lists them, for both
// images. Of the old one the device reads the content: small streams are inflated when they
// are read, the large ones once, into a file that the caller has room for. Of the new one
// it makes the content, and from that the streams, by packages deflate, deflateparse,
// lzmaparse and zstdparse. That these come out bit for bit was tried when the delta was made
// (package find, which devices do without): a stream that cannot be made again is left as it
// is.
//
// A delta has units, one for each segment of the artifact, so that what a unit makes can be
// checked at once. A unit that begins inside a stream needs the content since where the
// stream begins, and so the bytes of the units from there on: whoever goes on after an
// interruption without having fetched them again, has kept them (Head.Since).
//
// Nothing here authenticates anything, as in package delta, and what is read may be
// hostile: each number is bounded before anything is allocated or read by it, each
// refusal has a sentinel. docs/delta.md describes the format and what was measured.
package expand
