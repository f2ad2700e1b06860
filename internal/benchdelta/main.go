// Benchdelta measures the delta codec beside public tools: bytes, seconds and memory
// per pair of images. It prints a table in Markdown, for docs/delta.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := child(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "benchdelta: %v\n", err)
		os.Exit(1)
	}
}
