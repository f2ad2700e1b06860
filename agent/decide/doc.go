// Package decide answers, for one device and one moment, what the manifests
// of its cohorts mean: do nothing, wait until some time, start, or stop what
// has been started. It is a pure function, so that the same device in the same
// world always decides the same, and a test can ask about any moment.
//
// The rules, in order. A device decides only when it holds a manifest for each
// assigned cohort, and while neither they nor the assignment have expired. An
// entry takes part if the device has its component, is of
// one of its models and hardware revisions, and runs a version that the
// entry's From admits, and that its release takes, as far as that was seen; who runs the entry's version already is satisfied, and
// an attempt in progress is not undone by its own success. Of one rollout in
// two manifests the highest revision counts. Per component the highest
// priority wins, then the highest sequence. The winner alone is looked at: if
// it is paused, given up or would be a downgrade, nothing is done, and no
// lower one gets its turn. Only a completed winner that the device has followed,
// or gone on from to something newer, stands in the way of no newer update to
// what it runs or higher, whatever its priority: or an urgent fix or a revert
// would hold its devices for ever, at the first update or at the second.
// Everything else stays beaten, so that nothing goes round in circles.
//
// A device starts at the moment that its position in the wave gives it. If a
// window was closed at that moment, it starts after the next opening, at the
// same fraction of the spread (or of the window, when that is shorter). So the
// herd is spread exactly, also behind a window, without anybody coordinating. An entry
// with windows for downloads is started in these, and activated in the others.
package decide
