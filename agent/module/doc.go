// Package module updates what only its maker knows how to update: the firmware of a
// modem, a controller behind a bus, an application that has an installer of its own.
// The maker brings a directory of executables, one for each step, and this package
// calls them in the right order, again after a power cut, and back if need be.
//
//	install    Bring the artifact to where it is to run from. What runs goes on.
//	activate   Make it run. The end of install and activate may be called again after
//	           a power cut, with the same artifact, whatever they had got to.
//	verify     Is what runs well? Asked again and again while it is on trial. (Optional:
//	           it is well if activate said so.)
//	commit     It stays: what rollback would need may go. One that fails is called again,
//	           and given up after five times: the version stays all the same. (Optional.)
//	rollback   Make what ran before run again. It may be called at any time after
//	           install was begun, and again.
//	version    Print the version that runs, in full ("1.2.0"), and nothing else; anything
//	           else is a failure. (Optional: then it is what was activated.)
//
// Each gets in its environment, besides PATH: MODULE_STEP; MODULE_VERSION,
// MODULE_ARTIFACT (a file, verified a moment ago) and MODULE_SHA256 of what is being
// installed; MODULE_FROM, the version before; and MODULE_DIR, a directory for what it
// wants to remember. Exit status 0 means done, 21 means: not now, ask again later; any
// other is a failure. What it prints goes up when an update fails, its end at least. A
// step that takes too long (verify and version: more than a minute) is killed with its
// children, and has failed.
//
// There is no bootloader that would go back by itself: on trial, each start of the agent
// counts, and after so many of them, or when verify does not get to say yes in time, the
// agent rolls back. A device that must come back without its agent needs package machine.
//
//	{dir}/state    {dir}/artifact    {dir}/staging-...    {dir}/work/
package module
