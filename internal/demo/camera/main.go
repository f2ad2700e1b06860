// Camera is the firmware of the demo's devices: a small HTTP service such as a
// network camera runs. The demo builds it in several versions; one of them is
// built to fail: it starts, is well for a moment, and then answers its health
// check with 500.
//
// It takes its address from FIRMWARE_ADDR (host:port) and exits on SIGTERM.
package main

import (
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Set by the linker.
var (
	version = "0.0.0"
	healthy = "true"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	started := time.Now()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, version)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if healthy != "true" && time.Since(started) > 300*time.Millisecond {
			http.Error(w, "image sensor: no frames", http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /snapshot.png", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "image/png")
		_ = png.Encode(w, frame(time.Now())) // the viewer is gone if this fails
	})
	server := &http.Server{Addr: os.Getenv("FIRMWARE_ADDR"), Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServe(); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

// frame is what the camera sees: a gradient that moves with the time.
func frame(now time.Time) image.Image {
	img := image.NewGray(image.Rect(0, 0, 64, 36))
	shift := int(now.UnixMilli() / 50)
	for y := range 36 {
		for x := range 64 {
			img.SetGray(x, y, color.Gray{Y: uint8(x*4 + y*3 + shift)})
		}
	}
	return img
}
