package artifact

// WaitingIndexDeltas is how many may wait for a delta between indexes.
const WaitingIndexDeltas = waitingIndexDeltas
