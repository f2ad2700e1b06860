// Package deflate makes deflate streams (RFC 1951) as the programs do that make the
// compressed parts of firmware: zlib at its levels 1 to 9, and GNU gzip. What they made of
// some content, this makes of it again, bit for bit, by the same rules: how far back a
// match is looked for, which of two is taken, where a block ends, how its code is built.
// compress/flate has rules of its own.
//
// It does not say whose work a stream is. A caller finds that out by trying, and by
// comparing (package expand). A writer's memory is some 400 KB, whatever passes through
// it, and what comes out does not depend on how the content is cut into writes.
package deflate
