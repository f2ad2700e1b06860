// Package telemetry is what a device tells about itself besides what it
// installs: the machine's figures for heartbeats, and the last lines of its
// logs. What cannot be read is left out, never guessed.
package telemetry
