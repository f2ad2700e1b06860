package delta

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// zstdFrames compresses and decompresses whole frames, one at a time.
type zstdFrames struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
}

func (z *zstdFrames) compress(data []byte) ([]byte, error) {
	if z.encoder == nil {
		var err error
		z.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
			zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(MaxSegment), zstd.WithEncoderCRC(false))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
	}
	return z.encoder.EncodeAll(data, nil), nil
}

// decompress appends what a frame holds to dst, up to its capacity.
func (z *zstdFrames) decompress(dst, frame []byte) ([]byte, error) {
	if z.decoder == nil {
		var err error
		z.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(2*MaxSegment), zstd.WithDecoderMaxWindow(MaxSegment), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
	}
	out, err := z.decoder.DecodeAll(frame, dst)
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
		return nil, fmt.Errorf("%w: %w", ErrTooLarge, err)
	default:
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
}
