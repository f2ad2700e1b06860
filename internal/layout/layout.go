// Package layout holds the test that keeps the packages where they belong: who
// may import which third-party library, which way imports point, what the pure
// packages must not touch, what the agent must not link, and that every package
// says in its comment what it is.
package layout
