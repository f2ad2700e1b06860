// Package slot keeps two copies of a component side by side, A and B, and runs
// one of them. The new version goes into the idle one, is booted from there on
// trial, and becomes the one that boots by itself only when it is confirmed.
//
// Here a slot is a directory with an executable and a small file about it, the
// active one is what a symbolic link names, and booting is launching a process
// that this package supervises. It behaves as a bootloader does: a trial is a
// file with a counter, which is decremented durably before each launch; when it
// runs out, or the slot's content is not what it should be, the active slot
// boots instead. Nobody has to be alive to fall back. Whoever only kills, at
// any moment, finds after the next start either the active version or the trial
// running, and never anything that was not verified: the executable's SHA-256
// is compared before every launch.
//
// The process is the head of a session and dies with the agent; it has nothing
// of the agent's environment but PATH, and none of its descriptors. Before each
// launch whatever runs of an earlier one is ended, children and their children
// too, also those that an agent left which was killed; while that does not
// succeed, nothing is launched on trial. So nothing but the version on trial
// can answer for it.
//
//	{dir}/a/artifact  {dir}/a/image.json  {dir}/a/staging-...
//	{dir}/b/...
//	{dir}/active -> a
//	{dir}/trial.json
//	{dir}/session.json
package slot
