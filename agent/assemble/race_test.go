//go:build race

package assemble

// fewer is by how much there is less of what is done over and over: the race detector makes
// it several times slower, and finds what it finds in a few rounds.
const fewer = 20
