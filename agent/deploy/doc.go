// Package deploy drives one component of a device through its deployments. It
// asks package decide what to do, does what package update says about it, with
// the slots, the fetcher and the health watch as its hands, and writes every
// step into the journal together with the report about it.
//
// One goroutine does all of it, one state at a time: the state is journalled,
// then its effects are performed, and their outcome is the next event. So a
// kill at any moment finds a state in the journal whose effects can be
// repeated, and that is what Run begins with. While bytes are being fetched the
// world is watched on the side, and a pause or cancellation ends the download;
// once the jump is made, only health decides.
//
// While nothing may be downloaded, other devices of the site are asked for the bytes, and for
// what is needed to begin; what they bring is there when the download goes on.
//
// A device of several components has a driver for each. They meet in Device: one at a
// time is past the jump, in the order in which they were made, and one at a time
// downloads.
package deploy
