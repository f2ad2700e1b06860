// Package herd holds the test that brings the two sides of a download together in one
// process: hundreds of devices with the agent's own downloader, and origins with fleetd's
// own handler. It has no code of its own, and is the only package whose tests may import
// both; see package layout.
package herd
