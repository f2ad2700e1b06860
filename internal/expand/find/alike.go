package find

import (
	"context"

	"groundswell/internal/expand"
)

// telling is how many bytes of a stream of the old image tell whose work it is, as it is not
// made again. What pigz makes of the first 128 KiB is as zlib's.
const telling = 256 << 10

// alike lets the parsed form stand for deflate streams of the old image, if it stands for
// any of the new one's: a parse can only be foretold by another. Those that zlib or GNU gzip
// made have no counterparts among these, and stay as they are.
func alike(ctx context.Context, image []byte, list []found, made []remade, most int64) ([]found, error) {
	parsed := false
	for _, m := range made {
		parsed = parsed || m.Codec == expand.DeflateParsed
	}
	if !parsed {
		return list, nil
	}
	t := &trier{image: image, most: most}
	for i, f := range list {
		if f.Codec != expand.Deflate {
			continue
		}
		t.stream = f.Stream
		ok, err := t.imitate(ctx, f, telling)
		if err != nil {
			return nil, err
		}
		if !ok && t.parse() {
			list[i].Stream = t.stream
		}
	}
	return list, nil
}
