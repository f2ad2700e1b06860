package block

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/bits"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // registers algorithm
)

// algorithm is FastCDC with two normalised levels (Xia et al., USENIX ATC 2016), as
// that version of the library cuts. What it cuts must never change: devices cut what
// they run, to find what they have already.
const algorithm = "fastcdc-v1.0.0"

// MaxBlock is the largest block in bytes.
const MaxBlock = 2 << 20

// Normal sizes of blocks in bytes. Larger artifacts have larger blocks, so that the
// index stays below a hundredth of a percent to a tenth.
const (
	minNormal = 64 << 10
	maxNormal = 512 << 10
)

// ErrLength: there are more or fewer bytes than there should be.
var ErrLength = errors.New("wrong length")

// Normal is the normal size of the blocks of an artifact of that length in bytes: a
// power of two.
func Normal(length int64) int {
	switch {
	case length <= 32<<20:
		return minNormal
	case length <= 512<<20:
		return 128 << 10
	case length <= 4<<30:
		return 256 << 10
	}
	return maxNormal
}

func valid(normal int) bool {
	return normal >= minNormal && normal <= maxNormal && bits.OnesCount(uint(normal)) == 1
}

// Cut reads blocks of a normal size from r until its end, and gives each to visit, in
// order. The data is visit's until it returns. Errors are r's, visit's and ctx's.
func Cut(ctx context.Context, r io.Reader, normal int, visit func(b Block, data []byte) error) error {
	if !valid(normal) {
		return fmt.Errorf("cut: %w: a normal size of %d", ErrIndex, normal)
	}
	chunker, err := chunkers.NewChunker(algorithm, r, &chunkers.ChunkerOpts{MinSize: normal / 4, NormalSize: normal, MaxSize: 4 * normal})
	if err != nil {
		return fmt.Errorf("cut: %w", err)
	}
	for offset := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := chunker.Next()
		if err != nil && err != io.EOF {
			return fmt.Errorf("cut: %w", err)
		}
		if len(data) > 0 { // the library's last one may come with io.EOF
			if err := visit(Block{Offset: offset, Length: len(data), SHA256: sha256.Sum256(data)}, data); err != nil {
				return err
			}
			offset += int64(len(data))
		}
		if err == io.EOF {
			return nil
		}
	}
}

// Make cuts an artifact of that length. ErrLength if r has more or less.
func Make(ctx context.Context, r io.Reader, length int64) (Index, error) {
	x := Index{Length: length, Normal: Normal(length)}
	n := int64(0)
	err := Cut(ctx, r, x.Normal, func(b Block, _ []byte) error {
		if n += int64(b.Length); n > length {
			return fmt.Errorf("%w: more than %d bytes", ErrLength, length)
		}
		x.Blocks = append(x.Blocks, b)
		return nil
	})
	if err == nil && n != length {
		err = fmt.Errorf("%w: %d bytes instead of %d", ErrLength, n, length)
	}
	if err != nil {
		return Index{}, err
	}
	return x, nil
}
