// Package deflateparse takes deflate streams (RFC 1951) apart and puts them together again,
// bit for bit, whichever program made them.
package deflateparse
