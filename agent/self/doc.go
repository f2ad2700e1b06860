// Package self is how the agent replaces itself: its own slots, and the launcher that
// chooses which agent runs.
//
// The parties are the agent that was packaged with the system, and never changes unless
// the system does; two slots of package slot with newer agents; and the agent that
// runs, which stages and confirms its successors by the same manifests, checks and trial
// as any other component. The packaged program is the launcher too: `agent launch DIR
// ARG...` is what the system starts. It reads nothing but DIR, opens no connection, and
// does one thing: it runs the agent on trial while that has tries left, else the
// confirmed one, unless the system was updated to a newer packaged one since, else itself. What it runs it has verified a moment before, each time.
//
// The confirmed agent replaces the launcher (exec), so that whoever started it sees one
// process, which gets its signals and feeds its watchdog. An agent on trial is a child of
// the launcher instead: a program that hangs cannot count that it hangs, a timer that
// survives exec can be disarmed by what it is to guard, and not every device has a
// systemd that would do it. The launcher stays only as long as that child does: until the
// next restart. It counts the try durably before it starts the child; ends it when it
// gives no sign of life for too long, which is what it would tell systemd's watchdog
// (package watchdog), and is passed on there; gives the trial up when it was neither
// confirmed nor ended in the time that the old agent has set; and starts over when the
// child ends, however it does. When the launcher is killed, its child is too.
//
// To jump, the agent arms the trial, stops in the orderly way in which it stops when it
// is told to, and becomes the launcher again (exec). What it supervises is stopped and
// started once, as by any restart of the agent. To fall back, an agent on trial takes all
// that is left of its tries, and ends. The journal is shared by both; each tells by the
// trial how the attempt went, and the one that runs in the end reports it.
//
// Nothing of this needs a disk that takes writes, except a trial: a try that cannot be
// counted is not made.
//
//	{dir}/a  {dir}/b  {dir}/active  {dir}/trial.json   as in package slot
//	{dir}/packaged                                     the packaged agent beside which the active one was confirmed
//	{dir}/watch.json                                   how long the trial may take
//	{dir}/output                                       the end of what was printed on trial
package self
