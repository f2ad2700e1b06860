// Package verify holds what the device has come to trust. Everything that the
// agent acts upon has passed through it: bytes go in, verified bodies come out,
// or an error with the sentinel of package certs/trust that says what is wrong,
// and then nothing has changed. The checks themselves are certs/trust's; this
// package keeps the state in memory and on disk, and writes it down before
// anybody acts on what was accepted.
//
// Security floors are kept twice: in the list of releases that sets them, and by
// themselves, in a file of their own; each file with its generation before. Whichever is
// lost, the other holds.
//
// It fetches too, because trust has a supply: the next roots, and the list of
// releases that a manifest pins. Neither the sources nor the order in which
// they answer need any trust.
package verify
