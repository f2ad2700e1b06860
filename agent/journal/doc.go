// Package journal is what a device remembers over a power cut: the deployment
// in progress, how often each rollout has failed, the numbering of reports,
// and the reports that the broker has not acknowledged yet.
//
// All of it is one Record in one file, so that a step of a deployment and the
// report about it are one write: either both happened or neither. A write goes
// to a new file, which is synced and renamed over the old one, whose content
// stays beside it under another name; each carries a generation and a
// checksum. So a torn write, a full disk or a flipped bit costs at most the
// newest generation, never the file. When the older generation had to be used,
// or none was there, a new epoch begins, because numbers of the lost one may
// have been sent already. It has to be above all before it, or fleetd ignores
// what it numbers: it is above the copy of the epoch that is kept in a file of
// its own, and no earlier than the newest time that was verified. The device's
// clock alone gives no number: one of the year 2100 would leave no room above. A
// device that has lost all of that, or is new, begins another epoch when it has
// verified what time it is.
//
// A disk that takes no writes any more, full or read-only, loses nothing that is
// in the journal, and the queue is still sent. Steps of a deployment are not
// made without it. What may be lost is kept in memory meanwhile; it is numbered
// from a range that every write sets aside and that a restart skips, so numbers
// have gaps, and none means two things.
//
// An agent reads what an older or a newer one has written: each may come after the other,
// because an agent that replaces itself may be replaced by the one before. What an agent
// does not know it leaves out when it writes; what it does not find is as if it had never
// been. So the record only grows: a field is added, and neither taken away nor given
// another meaning or type, or the older agent would begin anew, and with it lose what it
// was to report.
//
// The queue is bounded. A heartbeat replaces the one before it; logs push out
// the oldest log; status reports push out nothing but older status reports,
// those that end no attempt first. Of those that say the same again and again, because the
// device waits and is offline for long, the first and the newest are kept.
package journal
