package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestEveryMeasure runs the whole benchmark at tiny sizes.
// What it measures is not looked at, only that it measured it, and that nothing
// was lost where nothing may be.
func TestEveryMeasure(t *testing.T) {
	r, err := run(t.Context(), options{
		Sessions: 20, Retained: 100, Publishers: 4, Window: 4, Connecting: 4, HalfOpen: 20, Rounds: 1,
		For: 100 * time.Millisecond, Settle: 300 * time.Millisecond,
		Servers: "ours,ours-interval,mochi,mochi-tuned,nats", Heap: filepath.Join(t.TempDir(), "heap"),
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ours", "mochi", "mochi-tuned"} {
		for _, row := range r.rows() {
			if _, ok := r.Figures[name][row.figure]; !ok {
				t.Errorf("%s: no figure %s", name, row.figure)
			}
		}
	}
	if len(r.Figures["nats"]) == 0 {
		t.Error("nats-server: no figures")
	}
	ours := r.Figures["ours"]
	if ours[figureUplinkTaken] != 100 || ours[figureFanOutMissing] != 0 || ours[figureRetainedMissing] != 0 {
		t.Errorf("our broker has lost something: %v", ours)
	}
	for _, part := range []string{"| plain mochi, tuned |", "| the same: missing | 0 |", "fsync"} {
		if !strings.Contains(r.table(), part) {
			t.Errorf("the table does not say %q:\n%s", part, r.table())
		}
	}
	file := filepath.Join(t.TempDir(), "results.json")
	if err := r.save(file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var saved report
	if err := json.Unmarshal(data, &saved); err != nil || saved.Figures["ours"][figureConnects] == 0 {
		t.Errorf("the file is not the report (%v): %s", err, data)
	}
}

func TestOptionsThatCannotBeMeasuredAreRefused(t *testing.T) {
	good := options{Sessions: 1, Retained: 1, Publishers: 1, Window: 1, Connecting: 1, HalfOpen: 1, Rounds: 1}
	for _, c := range []struct {
		change func(*options)
		says   string
	}{
		{func(o *options) { o.Sessions = 0 }, "--sessions"},
		{func(o *options) { o.Servers = "ours,emqx" }, `"emqx" is none of ours,`},
		{func(o *options) { o.Measures = "speed" }, `"speed" is none of sessions,`},
	} {
		o := good
		c.change(&o)
		if _, err := o.prepare(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("got %v, want an error that says %q", err, c.says)
		}
	}
	if err := openFiles(1 << 40); err == nil || !strings.Contains(err.Error(), "--sessions") {
		t.Errorf("more connections than files: %v", err)
	}
}

func TestConnackSaysTheWindow(t *testing.T) {
	for _, c := range []struct {
		name   string
		body   []byte
		window int
		fails  bool
	}{
		{"no properties", []byte{0, 0, 0}, 65535, false},
		{"receive maximum after a string", []byte{0, 0, 9, 0x12, 0, 3, 'a', 'b', 'c', 0x21, 1, 0}, 256, false},
		{"refused", []byte{0, 0x87, 0}, 0, true},
		{"cut short", []byte{0, 0, 9, 0x21}, 0, true},
		{"a property cut short", []byte{0, 0, 2, 0x21, 1}, 0, true},
		{"an unknown property", []byte{0, 0, 2, 0x7f, 1}, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			window, err := protocol(5).receiveMaximum(c.body)
			if window != c.window || (err != nil) != c.fails {
				t.Errorf("got %d, %v", window, err)
			}
		})
	}
}
