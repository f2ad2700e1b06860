package find

import (
	"context"

	"groundswell/internal/expand"
)

// telling is how many bytes of a stream of the old image tell whose work it is, as it is not
// made again. What pigz makes of the first 128 KiB is as zlib's.
const telling = 256 << 10

// alike lets the parsed form stand for deflate streams of the old image, if it stands for
// any of the new one's, and by the same efforts: a parse can only be foretold by another. Those
// that zlib or GNU gzip made have no counterparts among these, and stay as they are.
func alike(ctx context.Context, image []byte, list []found, made []remade, most, room int64, workers int) ([]found, error) {
	efforts := effortsOf(made)
	if len(efforts) == 0 {
		return list, nil
	}
	shared := newForms(room, efforts)
	err := divided(ctx, len(list), workers, func() func(context.Context, int) error {
		t := &trier{image: image, most: most, forms: shared}
		return func(ctx context.Context, i int) error {
			if list[i].Codec != expand.Deflate {
				return nil
			}
			t.stream = list[i].Stream
			ok, err := t.imitate(ctx, list[i], telling)
			if err == nil && !ok && t.parse() {
				list[i].Stream = t.stream
			}
			return err
		}
	})
	return list, err
}
