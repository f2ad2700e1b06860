package influx_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"groundswell/fleetd/ingest/influx"
	"groundswell/internal/devstack/devtest"
)

var at = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func point(n int, running any) influx.Point {
	return influx.Point{
		Measurement: "status", Tags: map[string]string{"model": "cam-a"},
		Fields: map[string]any{"running": running}, Time: at.Add(time.Duration(n)),
	}
}

func open(t *testing.T, url, bucket string) *influx.Client {
	t.Helper()
	c, err := influx.New(influx.Config{URL: url, Bucket: bucket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestOnlyThePointsThatNeverFitAreRejected(t *testing.T) {
	server, database := devtest.Influx(t)
	c := open(t, server.URL(), database+"/autogen")
	ctx := context.Background()
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if rejected, err := c.Write(ctx, []influx.Point{point(0, "1.0.0")}); err != nil || len(rejected) > 0 {
		t.Fatalf("first point: %v, %v", rejected, err)
	}
	var points []influx.Point
	for n := 1; n <= 20; n++ {
		points = append(points, point(n, "1.1.0"))
	}
	points[6].Fields["running"] = int64(7)              // the field is a string
	points[13].Fields = map[string]any{"x": math.NaN()} // cannot be encoded
	rejected, err := c.Write(ctx, points)
	if err != nil {
		t.Fatal(err)
	}
	if len(rejected) != 2 || rejected[0].Index != 6 || rejected[1].Index != 13 {
		t.Fatalf("rejected %+v, want points 6 and 13", rejected)
	}
	// Again, as after a lost answer: nothing doubles.
	if _, err := c.Write(ctx, points); err != nil {
		t.Fatal(err)
	}
	answer, err := server.InfluxQL(ctx, database, `SELECT count(running) FROM status`)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(answer, ",19]") {
		t.Fatalf("want 19 points, got %s", answer)
	}
}

func TestWhatMayPassIsAnErrorAndNothingIsRejected(t *testing.T) {
	server, _ := devtest.Influx(t)
	ctx := context.Background()
	for name, c := range map[string]*influx.Client{
		"no such database": open(t, server.URL(), "nowhere/autogen"),
		"no server":        open(t, "http://127.0.0.1:1", "b"),
	} {
		rejected, err := c.Write(ctx, []influx.Point{point(1, "1.0.0"), point(2, "1.0.0")})
		if err == nil || len(rejected) > 0 {
			t.Errorf("%s: rejected %v, err %v", name, rejected, err)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	c := open(t, server.URL(), "b")
	if rejected, err := c.Write(cancelled, []influx.Point{point(1, "1.0.0")}); err == nil || len(rejected) > 0 {
		t.Errorf("cancelled: rejected %v, err %v", rejected, err)
	}
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	for _, c := range []influx.Config{{}, {URL: "127.0.0.1:8086", Bucket: "b"}, {URL: "ftp://x", Bucket: "b"}, {URL: "http://x"}} {
		if _, err := influx.New(c); err == nil {
			t.Errorf("%+v was accepted", fmt.Sprint(c))
		}
	}
}
