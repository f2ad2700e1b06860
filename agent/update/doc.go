// Package update is the state machine of one deployment on one device: what
// may follow what, what is to be done in each state, and where to go on after
// the power was cut. It is pure; package deploy does what it says.
//
// The parties are the journal, which holds the state, and the driver. The
// driver journals a state before it does any of the state's effects, so that
// after a crash Resume finds at worst an effect half done; every effect is safe
// to repeat. Everything before Trying is harmless: the old version runs and
// nothing of it was touched. Trying is the risk, and its first effect arms the
// fallback: from then on, whatever happens short of Confirm leads back to the
// old version. Terminal states are left only when the report about them is in
// the queue, in one write with the return to Idle; so each attempt is reported
// exactly once, however often the device was killed.
package update
