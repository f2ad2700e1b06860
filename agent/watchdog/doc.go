// Package watchdog has the machine, or systemd, start the agent again when it does not
// get on any more: the agent gives a sign of life now and then, and when that does not
// come, the hardware watchdog resets the machine, or systemd ends and starts the agent.
// On a machine whose bootloader counts boots on trial, a version that hangs in this way
// is thereby given up.
//
// A sign of life is worth something only if it cannot be given while nothing else goes
// on. So before each the agent is asked something that goes through its parts, and takes
// their locks; when the answer does not come, neither does the sign.
package watchdog
