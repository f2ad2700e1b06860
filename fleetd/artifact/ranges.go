package artifact

import (
	"net/http"
	"strconv"
	"strings"
)

// Ranges beyond these are refused: each costs a header of a multipart answer, and no
// device asks for more than one.
const (
	maxRanges      = 4
	maxRangeHeader = 256 // bytes
)

// checkRange looks at the Range header before it is served. It returns false for one
// that is to be answered 416 (RFC 9110, section 14.2: a server may reject many small
// ranges), and otherwise the first byte that will not be read, 0 when that is not
// known. Of units that are not bytes nothing is left, as if they had not been sent
// (RFC 9110, section 14.2).
func checkRange(h http.Header) (end int64, ok bool) {
	fields := h.Values("Range")
	if len(fields) == 0 {
		return 0, true
	}
	field := fields[0]
	if len(fields) > 1 || len(field) > maxRangeHeader {
		return 0, false
	}
	unit, set, ok := strings.Cut(field, "=")
	if !ok || unit != "bytes" {
		h.Del("Range")
		return 0, true
	}
	ranges := strings.Split(set, ",")
	if len(ranges) > maxRanges {
		return 0, false
	}
	if len(ranges) > 1 {
		return 0, true
	}
	_, last, _ := strings.Cut(ranges[0], "-")
	n, err := strconv.ParseInt(strings.TrimSpace(last), 10, 64)
	if err != nil || n < 0 || strings.HasPrefix(strings.TrimSpace(set), "-") {
		return 0, true // open, a suffix, or nonsense
	}
	return n + 1, true
}
