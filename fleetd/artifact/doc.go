// Package artifact is the catalogue of what may be installed: the bytes, the
// signed metadata about them, and the listener where devices fetch both.
//
// The bytes (Blobs) lie in a directory or in a bucket of an S3-compatible store (package
// bucket), named by their SHA-256, and never change: they are checked while they stream,
// and have their name only when all of them are right and, in a directory, synced.
// Several fleetd replicas share the directory or the bucket.
//
// The metadata (Catalogue) is the image repository of certs/trust. An operator
// uploads targets that a threshold of offline release keys signed; fleetd holds
// none of these keys and can only refuse or take the list as it is. It takes it
// when the release role of the image root signed it, when no release of the
// list before has vanished or changed, and when the bytes of every release lie
// in Blobs, and its block index, if it has one, which is checked against them. Then it makes the snapshot and the timestamp with its own online
// keys and stores all of it byte for byte in PostgreSQL, in one transaction
// with the rows that the API lists. What was refused leaves nothing behind.
//
// Downloads serves both to devices, and what is made of them: blocks that are packed
// (Packs), and deltas between block indexes (IndexDeltas). Everything but the timestamp is
// immutable and may be cached by anybody, for ever if its name says what it is; nothing of it
// is secret, and devices trust none of it before they have verified it themselves. It bounds
// how much runs at once and, if told, how many bytes a second it sends (Limits); it can send
// devices on to a CDN, and ask for URLs that were signed not long ago (Signatures).
package artifact
