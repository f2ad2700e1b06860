// Package e2e holds the tests of the platform as a whole: real processes, real
// stores, real signatures, and faults between them. It has no code of its own;
// package stack brings the platform up, package simulated plays devices that do
// what a test tells them, and the agents are the real ones.
package e2e
