// Package deflateparse takes deflate streams (RFC 1951) apart and puts them together again,
// bit for bit, whichever program made them. What it makes of a stream is its parsed form:
// the content, and of the parse (literals, matches, blocks and their codes) what does not
// follow from it.
//
// Compressors of one format are much alike: they find matches by hashes, take the longest
// and among those the nearest, and look at the next byte before they do. So a predictor
// that works like zlib foretells the parse from the content, by one of a few efforts, and the
// form has the corrections: where the compressor chose otherwise. Of pigz, Go and gzip
// --rsyncable that is one choice in thousands, of those that weigh what each match costs
// (libdeflate, 7-Zip, zopfli) one in ten; these are alike where the content of two versions
// is, and so a delta between two forms is small. By which effort a stream is taken apart,
// the caller finds out by trying. The predictor is a part of the format, frozen by version 3
// of package expand's deltas: another predictor is another codec.
//
// The parsed form is a sequence of groups, numbers little endian:
//
//	what it begins with (0 a stored block, 1 a fixed, 2 a dynamic one,     1 byte
//	  3 nothing: the block goes on); 4 if its block is the last; 8 if the
//	  block ends here; 16 times the effort, which is that of all groups
//	bits that fill a byte, before stored content or behind the last        1
//	  block; 128 if the records are corrections
//	length of the header, of the content (at most 32 KiB), records         2 each
//	header: LEN of a stored block; of a dynamic one HLIT, HDIST, HCLEN,    as said
//	  lengths of the codes of code lengths, a byte for each of these codes
//	records                                                                4 each
//	content                                                                as said
//
// A record is literals (at most 255), the length of the match behind them less 3, and its
// distance less 1 (2 bytes, with 32,768 more: a length of 258 that was written as 227 and
// 31 more; or no match if the length is 0). Literals behind the last one are not counted. A
// correction is how many choices before it were foreseen, the length less 3, and the
// distance less 1, or 32,768 and how many nearer matches of that length there are; or
// 49,152 a literal, 49,153 the next one's length of 258 is written as above, 49,154 many
// that were foreseen: 256 times the length more. What is behind the last one was foreseen.
//
// Streams and forms may be hostile: every number is checked before anything is allocated or
// read by it. A Reader takes 290 KB, a Writer 280 KB, whatever they are given, and
// nothing for each stream. Behind a stream's end they look at nothing.
package deflateparse
