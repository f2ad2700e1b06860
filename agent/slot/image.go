package slot

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"groundswell/agent/disk"

	"golang.org/x/sys/unix"
)

// Image says what a slot holds.
type Image struct {
	Version string `json:"version"`
	Release string `json:"release"` // name; empty for what was provisioned
	SHA256  string `json:"sha256"`  // lower-case hex
	Length  int64  `json:"length"`  // bytes
	// Good: it was confirmed, or provisioned. Only such an image may boot
	// without a trial.
	Good bool `json:"good,omitempty"`
}

// Verify compares a file with what it should be; ErrDamaged.
func Verify(on disk.FS, path string, image Image) error {
	info, err := on.Stat(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if info.Size() != image.Length {
		return fmt.Errorf("%w: it does not have %d bytes", ErrDamaged, image.Length)
	}
	return VerifyBeginning(on, path, image)
}

// VerifyBeginning is Verify for what may be longer, as a partition is.
func VerifyBeginning(on disk.FS, path string, image Image) error {
	file, err := disk.Open(on, path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer file.Close()
	// What the kernel remembers of it is not what is on the disk. That is advice.
	if real, ok := file.(interface{ Fd() uintptr }); ok {
		_ = unix.Fadvise(int(real.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	h := sha256.New()
	n, err := io.CopyBuffer(h, io.LimitReader(file, image.Length), make([]byte, 1<<20))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if n != image.Length || hex.EncodeToString(h.Sum(nil)) != image.SHA256 {
		return fmt.Errorf("%w: it does not have SHA-256 %.16s", ErrDamaged, image.SHA256)
	}
	return nil
}
