package expand

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"groundswell/internal/deflate"
	"groundswell/internal/deflateparse"
	"groundswell/internal/delta"
)

// HeadBegin is how many bytes of a delta HeadLength needs.
const HeadBegin = len(magic) + 1 + 4

// HeadLength is how long the head of a delta that begins so is, in bytes.
func HeadLength(begin []byte) (int64, error) {
	if len(begin) < HeadBegin {
		return 0, ErrTruncated
	}
	if string(begin[:len(magic)]) != magic {
		return 0, ErrCorrupt
	}
	if v := begin[len(magic)]; v < versionDeflate || v > versionParsed {
		return 0, fmt.Errorf("%w: version %d", ErrVersion, v)
	}
	size := int64(binary.LittleEndian.Uint32(begin[len(magic)+1:]))
	if size > MaxHead {
		return 0, fmt.Errorf("%w: head of %d bytes", ErrTooLarge, size)
	}
	return int64(HeadBegin) + size, nil
}

// ReadHead reads the head that raw begins with. It fails with an error of this package, or
// of package delta.
func ReadHead(raw []byte) (*Head, error) {
	size, err := HeadLength(raw)
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) < size {
		return nil, ErrTruncated
	}
	body := raw[HeadBegin:size]
	n, k := binary.Uvarint(body)
	if k <= 0 || n > uint64(len(body)-k) {
		return nil, ErrTruncated
	}
	if n > maxRecipe {
		return nil, fmt.Errorf("%w: recipe of %d bytes", ErrTooLarge, n)
	}
	recipe, inner := body[k:k+int(n)], body[k+int(n):]
	list, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(recipe)), maxRecipeSize+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: recipe: %w", ErrCorrupt, err)
	case len(list) > maxRecipeSize:
		return nil, fmt.Errorf("%w: recipe", ErrTooLarge)
	}
	h := &Head{Length: size}
	if h.Inner, err = delta.ReadHead(bytes.NewReader(inner)); err != nil {
		return nil, err
	}
	if h.Inner.Length != int64(len(inner)) {
		return nil, ErrCorrupt
	}
	if err := h.parse(list, raw[len(magic)]); err != nil {
		return nil, err
	}
	if err := h.divide(); err != nil {
		return nil, err
	}
	return h, nil
}

// since is the first version of the format with such streams.
func (c Codec) since() byte {
	switch {
	case c == Deflate:
		return versionDeflate
	case c < DeflateParsed:
		return versionCodecs
	case c < codecs:
		return versionParsed
	}
	return math.MaxUint8
}

// numbers reads variable-length numbers and remembers the first failure.
type numbers struct {
	rest    []byte
	version byte
	err     error
}

func (n *numbers) next(most int64) int64 {
	if n.err != nil {
		return 0
	}
	v, k := binary.Uvarint(n.rest)
	switch {
	case k == 0:
		n.err = ErrTruncated
	case k < 0 || v > uint64(most):
		n.err = ErrTooLarge
	default:
		n.rest = n.rest[k:]
		return int64(v)
	}
	return 0
}

// column reads one number of each of something.
func (n *numbers) column(count int, most int64, set func(i int, v int64)) {
	for i := 0; i < count && n.err == nil; i++ {
		set(i, n.next(most))
	}
}

func (h *Head) parse(list []byte, version byte) error {
	n := &numbers{rest: list, version: version}
	h.OldLength, h.NewLength = n.next(delta.MaxImage), n.next(delta.MaxImage)
	h.Old = n.streams(false)
	h.New = n.streams(true)
	units := int(n.next(delta.MaxSegments))
	if n.err == nil && units*6 > len(n.rest) { // which is the least that they take
		n.err = ErrTruncated
	}
	if n.err != nil {
		return n.err
	}
	h.Units = make([]Unit, units)
	n.column(units, delta.MaxSegment, func(i int, v int64) { h.Units[i].Size = v })
	n.column(units, delta.MaxImage, func(i int, v int64) { h.Units[i].to = v })
	if n.err != nil {
		return n.err
	}
	if len(n.rest) != 4*units {
		return ErrCorrupt
	}
	for i := range h.Units {
		h.Units[i].Sum = binary.LittleEndian.Uint32(n.rest[4*i:])
	}
	return nil
}

// streams reads those of an image, by columns: where they begin behind the last one, how
// long they are, how much they hold, their codecs and efforts, and the ways of those that are
// to be made.
func (n *numbers) streams(made bool) []Stream {
	count := int(n.next(MaxStreams))
	if n.err == nil && 3*count > len(n.rest) {
		n.err = ErrTruncated
	}
	if n.err != nil {
		return nil
	}
	list := make([]Stream, count)
	n.column(count, delta.MaxImage, func(i int, v int64) { list[i].At = v })
	n.column(count, delta.MaxImage, func(i int, v int64) { list[i].Length = v })
	n.column(count, delta.MaxImage, func(i int, v int64) { list[i].Size = v })
	end := int64(0)
	for i := range list {
		list[i].At += end
		end = list[i].At + list[i].Length
	}
	if n.version >= versionCodecs {
		n.column(count, 1<<8-1, func(i int, v int64) {
			list[i].Codec = Codec(v)
			if n.err == nil && list[i].Codec.since() > n.version {
				n.err = fmt.Errorf("%w: codec %d", ErrVersion, v)
			}
		})
	}
	if n.version >= versionParsed {
		n.column(count, 1<<8-1, func(i int, v int64) {
			list[i].Effort = uint8(v)
			if n.err == nil && v > 0 && (list[i].Codec != DeflateParsed || v >= int64(deflateparse.Efforts)) {
				n.err = fmt.Errorf("%w: effort %d of codec %d", ErrVersion, v, list[i].Codec)
			}
		})
	}
	if made {
		n.column(count, 1<<12-1, func(i int, v int64) {
			if list[i].Codec != Deflate {
				if n.err == nil && v != 0 {
					n.err = fmt.Errorf("%w: way %#x of codec %d", ErrVersion, v, list[i].Codec)
				}
				return
			}
			list[i].Way = deflate.Way{Maker: deflate.Maker(v >> 8), Level: uint8(v >> 4 & 15), MemLevel: uint8(v & 15)}
			if n.err == nil && !list[i].Way.Valid() {
				n.err = fmt.Errorf("%w: way %#x", ErrVersion, v)
			}
		})
	}
	return list
}

// divide checks what was read against the inner delta, and gives each unit its segments.
func (h *Head) divide() error {
	old, errOld := place(h.Old, h.OldLength)
	target, errNew := place(h.New, h.NewLength)
	if err := errors.Join(errOld, errNew); err != nil {
		return err
	}
	if old != h.Inner.OldLength || target != h.Inner.NewLength {
		return fmt.Errorf("%w: %d and %d bytes, expanded %d and %d", ErrCorrupt, old, target, h.Inner.OldLength, h.Inner.NewLength)
	}
	segments := h.Inner.Segments
	start, from, at, k := int64(0), int64(0), h.Length, 0
	for i := range h.Units {
		u := &h.Units[i]
		u.Offset, u.Start, u.first, u.to = at, start, k, from+u.to
		for ; k < len(segments) && segments[k].Start+segments[k].Size <= u.to; k++ {
			u.Length += segments[k].Length
		}
		u.end = k
		if u.Size < 1 || u.to > target || k < len(segments) && segments[k].Start != u.to {
			return fmt.Errorf("%w: unit %d", ErrCorrupt, i)
		}
		if u.Length > MaxUnit {
			return fmt.Errorf("%w: unit %d has %d bytes", ErrTooLarge, i, u.Length)
		}
		start, from, at = start+u.Size, u.to, at+u.Length
	}
	if start != h.NewLength || from != target || k != len(segments) {
		return fmt.Errorf("%w: units of %d bytes", ErrCorrupt, start)
	}
	return nil
}

// Marshal is the head as it stands at the beginning of a delta; inner is that of the delta
// between the expanded images. What is in h is taken as it is, but for Length and the
// place of the units' bytes. ends are where the units end in the expanded image.
func (h *Head) Marshal(inner []byte, ends []int64) ([]byte, error) {
	list := binary.AppendUvarint(nil, uint64(h.OldLength))
	list = binary.AppendUvarint(list, uint64(h.NewLength))
	version := byte(versionDeflate)
	for _, s := range slices.Concat(h.Old, h.New) {
		version = max(version, s.Codec.since())
	}
	list = appendStreams(list, h.Old, version, false)
	list = appendStreams(list, h.New, version, true)
	list = binary.AppendUvarint(list, uint64(len(h.Units)))
	for _, u := range h.Units {
		list = binary.AppendUvarint(list, uint64(u.Size))
	}
	last := int64(0)
	for _, end := range ends {
		list = binary.AppendUvarint(list, uint64(end-last))
		last = end
	}
	for _, u := range h.Units {
		list = binary.LittleEndian.AppendUint32(list, u.Sum)
	}
	var recipe bytes.Buffer
	w, err := flate.NewWriter(&recipe, flate.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(list); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if len(list) > maxRecipeSize || recipe.Len() > maxRecipe {
		return nil, fmt.Errorf("%w: recipe of %d bytes", ErrTooLarge, recipe.Len())
	}
	body := binary.AppendUvarint(nil, uint64(recipe.Len()))
	body = append(append(body, recipe.Bytes()...), inner...)
	out := binary.LittleEndian.AppendUint32(append([]byte(magic), version), uint32(len(body)))
	return append(out, body...), nil
}

func appendStreams(list []byte, streams []Stream, version byte, made bool) []byte {
	list = binary.AppendUvarint(list, uint64(len(streams)))
	end := int64(0)
	for _, s := range streams {
		list = binary.AppendUvarint(list, uint64(s.At-end))
		end = s.At + s.Length
	}
	for _, s := range streams {
		list = binary.AppendUvarint(list, uint64(s.Length))
	}
	for _, s := range streams {
		list = binary.AppendUvarint(list, uint64(s.Size))
	}
	if version >= versionCodecs {
		for _, s := range streams {
			list = binary.AppendUvarint(list, uint64(s.Codec))
		}
	}
	if version >= versionParsed {
		for _, s := range streams {
			list = binary.AppendUvarint(list, uint64(s.Effort))
		}
	}
	if made {
		for _, s := range streams {
			list = binary.AppendUvarint(list, uint64(s.Way.Maker)<<8|uint64(s.Way.Level)<<4|uint64(s.Way.MemLevel))
		}
	}
	return list
}
