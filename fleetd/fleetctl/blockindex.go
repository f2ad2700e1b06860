package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"

	"groundswell/certs/trust"
	"groundswell/internal/block"
	"groundswell/topics"
)

// blockIndex cuts a file of that length into blocks and returns their index, and how a
// release pins it.
func blockIndex(ctx context.Context, file string, length int64) ([]byte, *topics.Document, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	x, err := block.Make(ctx, f, length)
	if err != nil {
		return nil, nil, fmt.Errorf("cut %s into blocks: %w", file, err)
	}
	raw := x.Bytes()
	digest := sha256.Sum256(raw)
	return raw, &topics.Document{Length: int64(len(raw)), SHA256: hex.EncodeToString(digest[:])}, nil
}

// uploadRelease brings to fleetd what a release is made of, as far as it does not have it:
// the artifact, and its block index if the release pins one. index may be nil: it is made
// again.
func uploadRelease(ctx context.Context, api *client, file string, image trust.ReleaseImage, index []byte) error {
	if pin := image.Release.Index; pin != nil {
		if index == nil {
			var made *topics.Document
			var err error
			if index, made, err = blockIndex(ctx, file, image.Length); err != nil {
				return err
			}
			if *made != *pin {
				return fmt.Errorf("%s: its block index is not the one that was signed: it was cut by another version of fleetctl", file)
			}
		}
		err := upload(ctx, api, pin.SHA256, pin.Length, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(index)), nil })
		if err != nil {
			return err
		}
	}
	return upload(ctx, api, image.SHA256, image.Length, func() (io.ReadCloser, error) { return os.Open(file) })
}

// upload brings bytes to fleetd, unless it has them.
func upload(ctx context.Context, api *client, digest string, length int64, open func() (io.ReadCloser, error)) error {
	path := "/v1/artifacts/" + digest
	if _, err := api.get(ctx, path, nil); err == nil {
		return nil
	} else if !notFound(err) {
		return err
	}
	source, err := open()
	if err != nil {
		return err
	}
	defer source.Close()
	_, err = api.do(ctx, request{method: http.MethodPut, path: path, body: source, length: length})
	return err
}
