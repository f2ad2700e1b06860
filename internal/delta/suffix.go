package delta

import (
	"errors"
	"index/suffixarray"
	"reflect"
	"unsafe"

	"groundswell/internal/prefix"
)

// suffixes finds the longest match of some bytes in a text.
type suffixes struct {
	text   []byte
	sorted []int32
	// first[k] is the first suffix whose two leading bytes are at least k.
	first []int32
}

// newSuffixes sorts the suffixes of a text: 4 bytes for each of its bytes.
func newSuffixes(text []byte) (*suffixes, error) {
	s := &suffixes{text: text, first: make([]int32, 1<<16+1)}
	if len(text) > 0 {
		var err error
		if s.sorted, err = sortSuffixes(text); err != nil {
			return nil, err
		}
	}
	for i := range text {
		s.first[s.prefix(int32(i))+1]++
	}
	for k := range 1 << 16 {
		s.first[k+1] += s.first[k]
	}
	return s, nil
}

func (s *suffixes) prefix(at int32) int {
	k := int(s.text[at]) << 8
	if int(at)+1 < len(s.text) {
		k |= int(s.text[at+1])
	}
	return k
}

// longest returns where the longest match of a beginning of key is, and how long
// it is, at most limit.
func (s *suffixes) longest(key []byte, limit int) (length int, at int32) {
	if len(key) > limit {
		key = key[:limit]
	}
	if len(key) < 2 || len(s.sorted) == 0 {
		return 0, 0
	}
	k := int(key[0])<<8 | int(key[1])
	lo, hi := int(s.first[k]), int(s.first[k+1]) // the suffixes of that prefix
	if lo == hi {
		return 0, 0
	}
	// Between two suffixes all have what those two have in common.
	commonLo, commonHi := 0, 0
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		from := int(s.sorted[mid])
		suffix := s.text[from:]
		n := min(commonLo, commonHi)
		n += prefix.Common(suffix[n:], key[n:])
		if n > length {
			length, at = n, int32(from)
			if n == len(key) {
				return length, at
			}
		}
		if n == len(suffix) || n < len(key) && suffix[n] < key[n] {
			lo, commonLo = mid+1, n
		} else {
			hi, commonHi = mid, n
		}
	}
	return length, at
}

// sortSuffixes has the standard library sort them. Its array is taken where it lies,
// by reflection: the only way that it offers is to write it to a file, and a second
// array would be 4 bytes more for each of the text's.
func sortSuffixes(text []byte) ([]int32, error) {
	index := suffixarray.New(text)
	field := reflect.ValueOf(index).Elem().FieldByName("sa")
	if field.Kind() == reflect.Struct {
		field = field.FieldByName("int32")
	}
	if field.Kind() != reflect.Slice || field.Type().Elem().Kind() != reflect.Int32 || field.Len() != len(text) {
		return nil, errors.New("index/suffixarray of this Go release keeps its array elsewhere")
	}
	return unsafe.Slice((*int32)(field.UnsafePointer()), len(text)), nil
}
