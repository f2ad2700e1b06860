package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"groundswell/certs/trust"
	"groundswell/fleetd/artifact/bucket"
	"groundswell/internal/block"
	"groundswell/topics"
)

// ErrNoPack: the blocks of the artifact are not packed, or not yet.
var ErrNoPack = errors.New("no such pack")

// Packs keeps the packed blocks of artifacts (internal/block), each once, whatever
// artifacts it belongs to:
//
//	blocks/ab/{sha256 of the block}   one packed block
//	packs/ab/{artifact}.table         how long its packed blocks are
//	packs/ab/{artifact}.index         its block index
//
// A pack is there from the moment that its table is; it never changes. It is safe for
// concurrent use, also by several processes.
type Packs struct {
	blobs *Blobs

	mu    sync.Mutex // guards known
	known map[string]*pack
}

// maxKnown is how many packs are remembered.
const maxKnown = 64

// NewPacks keeps them where the artifacts are.
func NewPacks(blobs *Blobs) *Packs { return &Packs{blobs: blobs, known: map[string]*pack{}} }

// pack is what is known of one.
type pack struct {
	index  block.Index
	table  block.Table
	raw    []byte // the table
	digest string // its SHA-256 in lower-case hex
}

func packName(artifact, what string) string {
	return "packs/" + artifact[:2] + "/" + artifact + "." + what
}

func blockName(b block.Block) string { return "blocks/" + b.Name()[:2] + "/" + b.Name() }

// Has is whether the artifact is packed.
func (p *Packs) Has(ctx context.Context, artifact string) (bool, error) {
	_, err := p.get(ctx, artifact)
	if errors.Is(err, ErrNoPack) {
		return false, nil
	}
	return err == nil, err
}

// Length is how many bytes the packed blocks of an artifact and its table have; ErrNoPack.
func (p *Packs) Length(ctx context.Context, artifact string) (int64, error) {
	k, err := p.get(ctx, artifact)
	if err != nil {
		return 0, err
	}
	return k.table.Length() + int64(len(k.raw)), nil
}

// Make packs the blocks of an artifact that no other one has brought yet. It may be
// repeated, and goes on where it stopped.
func (p *Packs) Make(ctx context.Context, artifact string, indexRaw []byte, length int64) error {
	index, err := block.Read(indexRaw, length)
	if err != nil {
		return fmt.Errorf("pack %s: %w", artifact, err)
	}
	source, err := p.blobs.Open(ctx, artifact)
	if err != nil {
		return err
	}
	defer source.Close()
	packer, err := block.NewPacker()
	if err != nil {
		return err
	}
	lengths := make([]int, len(index.Blocks))
	data, packed := make([]byte, block.MaxBlock), make([]byte, 0, block.MaxBlock)
	for i, b := range index.Blocks {
		size, err := p.blobs.bucket.Size(ctx, blockName(b))
		if errors.Is(err, bucket.ErrNotFound) {
			if _, err := source.Seek(b.Offset, io.SeekStart); err != nil {
				return err
			}
			if _, err := io.ReadFull(source, data[:b.Length]); err != nil {
				return fmt.Errorf("pack %s: %w", artifact, err)
			}
			if err := b.Check(data[:b.Length]); err != nil {
				return fmt.Errorf("pack %s: its index is of something else: %w", artifact, err)
			}
			packed = packer.Pack(packed[:0], data[:b.Length])
			size, err = int64(len(packed)), p.blobs.bucket.Put(ctx, blockName(b), int64(len(packed)), bytes.NewReader(packed))
			if err != nil {
				return fmt.Errorf("pack %s: %w", artifact, err)
			}
		} else if err != nil {
			return fmt.Errorf("pack %s: %w", artifact, err)
		}
		lengths[i] = int(size)
	}
	table := block.NewTable(lengths).Bytes()
	if _, err := block.ReadTable(table, index); err != nil {
		return fmt.Errorf("pack %s: %w", artifact, err)
	}
	for _, part := range []struct {
		what string
		raw  []byte
	}{{"index", indexRaw}, {"table", table}} { // the table last: it says that all is there
		if err := p.blobs.bucket.Put(ctx, packName(artifact, part.what), int64(len(part.raw)), bytes.NewReader(part.raw)); err != nil {
			return fmt.Errorf("pack %s: %w", artifact, err)
		}
	}
	return nil
}

// get reads what is known of a pack; ErrNoPack, ErrName.
func (p *Packs) get(ctx context.Context, artifact string) (*pack, error) {
	if topics.CheckDigest("", artifact) != nil {
		return nil, fmt.Errorf("%w: %.80q", ErrName, artifact)
	}
	p.mu.Lock()
	k := p.known[artifact]
	p.mu.Unlock()
	if k != nil {
		return k, nil
	}
	length, err := p.blobs.Size(ctx, artifact)
	if errors.Is(err, ErrNoArtifact) {
		return nil, fmt.Errorf("%w: %s", ErrNoPack, artifact)
	}
	if err != nil {
		return nil, err
	}
	k = &pack{}
	if k.raw, err = p.small(ctx, packName(artifact, "table")); err != nil {
		return nil, err
	}
	indexRaw, err := p.small(ctx, packName(artifact, "index"))
	if err != nil {
		return nil, err
	}
	if k.index, err = block.Read(indexRaw, length); err != nil {
		return nil, fmt.Errorf("pack %s: %w", artifact, err)
	}
	if k.table, err = block.ReadTable(k.raw, k.index); err != nil {
		return nil, fmt.Errorf("pack %s: %w", artifact, err)
	}
	sum := sha256.Sum256(k.raw)
	k.digest = hex.EncodeToString(sum[:])
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= maxKnown {
		clear(p.known)
	}
	p.known[artifact] = k
	return k, nil
}

// small reads a table or an index.
func (p *Packs) small(ctx context.Context, name string) ([]byte, error) {
	size, err := p.blobs.bucket.Size(ctx, name)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s", ErrNoPack, name)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if size > trust.MaxIndex {
		return nil, fmt.Errorf("%s has %d bytes", name, size)
	}
	r, err := p.blobs.bucket.Range(ctx, name, 0, size)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, size))
}

// open reads the packed blocks, one behind the other, until ctx ends.
func (p *Packs) open(ctx context.Context, k *pack) *packReader {
	return &packReader{ctx: ctx, packs: p, pack: k}
}

// packReader reads the packed blocks of an artifact from any place on.
type packReader struct {
	ctx   context.Context
	packs *Packs
	pack  *pack
	at    int64
	open  io.ReadCloser // nil: not asked yet
	end   int64         // where open ends
}

// Size is how many bytes the packed blocks have.
func (r *packReader) Size() int64 { return r.pack.table.Length() }

// Expect does nothing: blocks are small.
func (r *packReader) Expect(int64) {}

// Read implements io.Reader.
func (r *packReader) Read(out []byte) (int, error) {
	if r.at >= r.pack.table.Length() {
		return 0, io.EOF
	}
	if r.open == nil {
		i := r.pack.table.At(r.at)
		from, to := r.pack.table.Range(i)
		open, err := r.packs.blobs.bucket.Range(r.ctx, blockName(r.pack.index.Blocks[i]), r.at-from, to-r.at)
		if err != nil {
			return 0, fmt.Errorf("read packed block: %w", err)
		}
		r.open, r.end = open, to
	}
	n, err := r.open.Read(out[:min(int64(len(out)), r.end-r.at)])
	if r.at += int64(n); r.at == r.end {
		return n, r.Close()
	}
	if err == io.EOF {
		err = fmt.Errorf("a packed block is shorter than the table says: %w", io.ErrUnexpectedEOF)
	}
	return n, err
}

// Seek implements io.Seeker.
func (r *packReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.pack.table.Length()
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning of a pack")
	}
	if offset != r.at {
		r.at = offset
		return offset, r.Close()
	}
	return offset, nil
}

// Close lets go of the block that is open.
func (r *packReader) Close() error {
	if r.open == nil {
		return nil
	}
	open := r.open
	r.open = nil
	return open.Close()
}
