// Package fetch brings metadata and artifacts over HTTP from sources that need
// no trust: fleetd, a cache, a CDN. What it returns as metadata is unverified
// bytes of bounded size, for package certs/trust to judge. An artifact is
// written to a file and is complete only when Artifact has returned nil: then
// the file has the length and SHA-256 that were asked for, whatever the source
// sent.
//
// A download goes on where an earlier one stopped, also after a restart: the
// part on disk is hashed again and counts for nothing by itself. When the
// result is wrong all of it is thrown away, since nobody knows which byte it
// was. Sources are tried in order, and each is left for the next when what it
// sends is refused, when it sends too little for too long, or nothing: one that
// lies, drips or hangs up keeps the device from none of the others. Between
// rounds it waits with exponential backoff and full jitter, for as long as the
// caller's context lives, because a device that is offline today may be online
// tomorrow. A source that says how long it wants to be left alone is left alone, whatever
// is to be fetched.
//
// The layout of a source:
//
//	{base}/repository/image/{N}.root.json
//	{base}/repository/image/{N}.snapshot.json
//	{base}/repository/image/{N}.targets.json
//	{base}/repository/director/{N}.root.json
//	{base}/artifacts/{sha256}
package fetch
