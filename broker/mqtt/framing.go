package mqtt

import (
	"errors"
	"fmt"
)

// Refusals of the byte stream.
var (
	errTooLarge  = errors.New("packet too large")
	errMalformed = errors.New("malformed packet length")
)

// framing follows the packets in a stream of bytes, so that one that is too
// large is seen when its header has come, before anybody makes room for it.
// mochi would allocate whatever the header says.
type framing struct {
	max       int // bytes of a packet, header included
	header    int // bytes of the current header seen, 0 between packets
	length    int // remaining length as far as it was read
	shift     uint
	remaining int // bytes of the body still to come
}

// scan reads p and returns how many bytes, from the start, belong to packets
// that may pass. After an error it must not be called again.
func (f *framing) scan(p []byte) (good int, err error) {
	for i := 0; i < len(p); {
		if f.remaining > 0 {
			n := min(f.remaining, len(p)-i)
			f.remaining -= n
			i += n
			good = i
			continue
		}
		if f.header == 0 { // type and flags
			f.header, f.length, f.shift = 1, 0, 0
			i++
			continue
		}
		b := p[i]
		i++
		f.header++
		f.length |= int(b&0x7f) << f.shift
		f.shift += 7
		if b&0x80 != 0 {
			if f.header == 5 { // [MQTT-1.5.5-1]: four bytes at most
				return good, errMalformed
			}
			continue
		}
		if f.header+f.length > f.max {
			return good, fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, f.header+f.length, f.max)
		}
		f.remaining, f.header = f.length, 0
		good = i
	}
	return good, nil
}
