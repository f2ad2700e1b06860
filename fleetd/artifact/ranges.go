package artifact

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Ranges beyond these are refused: each costs a header of a multipart answer, and no
// device asks for more than one (RFC 9110, section 14.2: a server may reject many small
// ranges).
const (
	maxRanges      = 4
	maxRangeHeader = 256 // bytes
)

// ranged makes of a request's Range what http.ServeContent is to serve of size bytes. What is
// to be answered 416 becomes a range that is not there, because the conditions come first (RFC
// 9110, section 13.2.2); refused says that it is for its many ranges. end is the first byte that
// will not be read, 0 when that is not known.
//
// Nothing is left of units that are not bytes, nor with methods but GET, as if they had not been
// sent (section 14.2); nor of the last 0 bytes, which ServeContent would take for a range.
func ranged(r *http.Request, size int64) (end int64, refused bool) {
	fields := r.Header.Values("Range")
	if len(fields) == 0 {
		return 0, false
	}
	if r.Method != http.MethodGet {
		r.Header.Del("Range")
		return 0, false
	}
	none := "bytes=" + strconv.FormatInt(size, 10) + "-"
	field := fields[0]
	if len(fields) > 1 || len(field) > maxRangeHeader {
		r.Header.Set("Range", none)
		return 0, true
	}
	unit, set, ok := strings.Cut(field, "=")
	if !ok || unit != "bytes" {
		r.Header.Del("Range")
		return 0, false
	}
	all := strings.Split(set, ",")
	if len(all) > maxRanges {
		r.Header.Set("Range", none)
		return 0, true
	}
	ranges := slices.DeleteFunc(slices.Clone(all), lastNothing)
	switch {
	case len(ranges) == 0:
		r.Header.Set("Range", none)
		return 0, false
	case len(ranges) < len(all):
		r.Header.Set("Range", "bytes="+strings.Join(ranges, ","))
	}
	if len(ranges) > 1 {
		return 0, false
	}
	_, last, _ := strings.Cut(ranges[0], "-")
	n, err := strconv.ParseInt(strings.TrimSpace(last), 10, 64)
	if err != nil || n < 0 || strings.HasPrefix(strings.TrimSpace(ranges[0]), "-") {
		return 0, false // open, a suffix, or nonsense
	}
	return n + 1, false
}

// lastNothing reports whether a range is of the last 0 bytes.
func lastNothing(span string) bool {
	length, ok := strings.CutPrefix(strings.TrimSpace(span), "-")
	length = strings.TrimSpace(length)
	n, err := strconv.ParseInt(length, 10, 64)
	return ok && err == nil && n == 0 && !strings.HasPrefix(length, "-")
}
