package delta

// copyCoder codes the list of copies, in either direction.
type copyCoder struct {
	c      coder
	gap    *numbers // bytes of the new image between copies
	size   *numbers
	jump   *numbers // bytes of the old image between copies
	which  *numbers // whether a copy goes on as one lately did
	lately [8]int32 // old offset - new offset of copies, the latest first
	next   copied   // where the next copy would be if nothing was between
}

func newCopyCoder(c coder) *copyCoder {
	return &copyCoder{c: c, gap: newNumbers(), size: newNumbers(), jump: newNumbers(), which: newNumbers()}
}

// code codes the next copy.
func (l *copyCoder) code(v copied) (copied, error) {
	gap := l.gap.code(&l.c, 0, uint32(v.at-l.next.at))
	if gap > MaxImage-uint32(l.next.at) {
		return copied{}, ErrOffset
	}
	at := l.next.at + int32(gap)
	gapWidth := width(gap)

	var which uint32
	for k, shift := range l.lately {
		if v.from-v.at == shift {
			which = uint32(k) + 1
			break
		}
	}
	which = l.which.code(&l.c, gapWidth, which)
	if which > uint32(len(l.lately)) {
		return copied{}, ErrCorrupt
	}
	var shift int32
	if which > 0 {
		shift = l.lately[which-1]
	} else {
		jump := l.jump.code(&l.c, gapWidth, zigzag(v.from-l.next.from))
		shift = l.next.from + unzigzag(jump) - at
		which = uint32(len(l.lately))
	}
	copy(l.lately[1:which], l.lately[:which-1])
	l.lately[0] = shift

	from := int64(at) + int64(shift)
	size := l.size.code(&l.c, min(which, 2)<<8|gapWidth, uint32(v.size))
	if from < 0 || size == 0 || int64(at)+int64(size) > MaxImage || from+int64(size) > MaxImage {
		return copied{}, ErrOffset
	}
	v = copied{at, int32(from), int32(size)}
	l.next = copied{v.end(), v.from + v.size, 0}
	return v, nil
}

func width(v uint32) uint32 {
	var n uint32
	for ; v > 0; v >>= 1 {
		n++
	}
	return n
}
