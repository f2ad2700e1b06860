//go:build long

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

// radio is the way from a device to the broker, of a certain length. It counts what a
// radio would have to carry.
type radio struct {
	listener net.Listener
	broker   string
	rtt      time.Duration

	mu    sync.Mutex // guards what follows
	used  []usage    // of each connection that has ended
	after func()     // called when one has ended
}

// usage is one connection's. Bytes are those within TCP; the radio is on from the
// device's SYN to its FIN.
type usage struct {
	up, down int
	on       time.Duration
}

func newRadio(t *testing.T, broker string, rtt time.Duration) *radio {
	t.Helper()
	r := &radio{listener: must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0")), broker: broker, rtt: rtt, after: func() {}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			device, err := r.listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { r.carry(device, time.Now()) })
		}
	})
	t.Cleanup(func() { r.listener.Close(); wg.Wait() })
	return r
}

// carry carries one connection, which the device began at a time.
func (r *radio) carry(device net.Conn, began time.Time) {
	defer device.Close()
	broker, err := net.Dial("tcp", r.broker)
	if err != nil {
		return
	}
	defer broker.Close()
	var u usage
	var wg sync.WaitGroup
	wg.Go(func() {
		// The device's own SYN takes a round trip, of which loopback knows nothing.
		var ended time.Time
		u.up, ended = r.delay(broker, device, began.Add(r.rtt))
		u.on = ended.Sub(began)
		broker.Close()
	})
	wg.Go(func() { u.down, _ = r.delay(device, broker, began) })
	wg.Wait()
	r.mu.Lock()
	r.used = append(r.used, u)
	after := r.after
	r.mu.Unlock()
	after()
}

// delay copies from one end to the other, each byte half a round trip late and none before
// a time, and counts. It tells when there was nothing more to read, and returns when all
// of it has arrived.
func (r *radio) delay(to io.Writer, from io.Reader, notBefore time.Time) (n int, ended time.Time) {
	type chunk struct {
		data []byte
		due  time.Time
	}
	queue := make(chan chunk, 1024)
	written := make(chan struct{})
	go func() {
		defer close(written)
		for c := range queue {
			time.Sleep(time.Until(c.due))
			_, _ = to.Write(c.data) // gone is gone
		}
	}()
	for {
		buffer := make([]byte, 16<<10)
		got, err := from.Read(buffer)
		n += got
		due := time.Now()
		if due.Before(notBefore) {
			due = notBefore
		}
		if got > 0 {
			queue <- chunk{buffer[:got], due.Add(r.rtt / 2)}
		}
		if err != nil {
			ended = time.Now()
			close(queue)
			<-written
			return n, ended
		}
	}
}

// next is the median of the next n connections, the one that is open not counted.
func (r *radio) next(t *testing.T, n int) usage {
	t.Helper()
	r.mu.Lock()
	skip := len(r.used) + 1
	r.mu.Unlock()
	var used []usage
	devtest.Eventually(t, 5*time.Minute, "check-ins", func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.used) < skip+n {
			return fmt.Errorf("%d of %d", len(r.used), skip+n)
		}
		used = slices.Clone(r.used[skip : skip+n])
		return nil
	})
	median := func(of func(usage) int64) int64 {
		var list []int64
		for _, u := range used {
			list = append(list, of(u))
		}
		slices.Sort(list)
		return list[len(list)/2]
	}
	return usage{
		up: int(median(func(u usage) int64 { return int64(u.up) })), down: int(median(func(u usage) int64 { return int64(u.down) })),
		on: time.Duration(median(func(u usage) int64 { return int64(u.on) })),
	}
}

func (r *radio) then(after func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.after = after
}

// TestBatteryFigures measures what a check-in costs a device that polls: a real agent and
// a real broker, with a radio of no and of 150 ms round-trip time between them.
func TestBatteryFigures(t *testing.T) {
	const samples = 5
	f := newFleet(t)
	firmware := agenttest.Firmware(t, "1.1.0", "healthy")
	image := f.publishRelease("1.1.0", firmware.Bytes)
	type column struct {
		rtt     time.Duration
		resumed bool
	}
	columns := []column{{0, false}, {0, true}, {150 * time.Millisecond, false}, {150 * time.Millisecond, true}}
	rows := []string{"nothing new", "a report waits", "a new manifest"}
	figures := make([][]usage, len(rows))
	for i := range figures {
		figures[i] = make([]usage, len(columns))
	}
	f.mu.Lock()
	f.intercept = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/artifacts/") {
			time.Sleep(time.Second)
		}
		return false
	}
	f.mu.Unlock()
	var wg sync.WaitGroup
	for i, c := range columns {
		wg.Go(func() {
			id := fmt.Sprintf("cam-%d", i)
			air := newRadio(t, f.broker.Addr("mqtt"), c.rtt)
			d := f.newDevice(t, id, "mode: polling\npolling: {interval: 2s, jitter: 0s, bytes: 10000}\n")
			d.replace(f.broker.Addr("mqtt"), air.listener.Addr().String())
			d.replace("tls: {", fmt.Sprintf("tls: {resume: %v, ", c.resumed))
			later := entry(image, func(e *topics.Entry) { e.Waves[0].OpensAt = e.Waves[0].OpensAt.Add(24 * time.Hour) })
			f.manifest(id, later)
			f.assign(id, []string{id})
			d.start("")
			air.next(t, 1) // the first one brings the assignment
			figures[0][i] = air.next(t, samples)

			// So little is downloaded in each wake that it is never done, and each wake
			// has a report of that to send: of the wake before, because the source
			// takes its time.
			now := later
			now.Waves = []topics.Wave{{Threshold: topics.Buckets, OpensAt: later.Waves[0].OpensAt.Add(-24 * time.Hour)}}
			f.manifest(id, now)
			air.next(t, 2)
			figures[1][i] = air.next(t, samples)

			f.manifest(id, later)
			air.then(func() { f.manifest(id, later) })
			air.next(t, 2)
			figures[2][i] = air.next(t, samples)
			air.then(func() {})
			d.process.Kill()
		})
	}
	wg.Wait()

	var b strings.Builder
	b.WriteString("| one check-in |")
	for _, c := range columns {
		how := "full handshake"
		if c.resumed {
			how = "resumed"
		}
		fmt.Fprintf(&b, " %s, %d ms RTT |", how, c.rtt.Milliseconds())
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --- |", len(columns)) + "\n")
	for i, row := range rows {
		fmt.Fprintf(&b, "| %s |", row)
		for _, u := range figures[i] {
			fmt.Fprintf(&b, " %d B up, %d B down, %.2f s |", u.up, u.down, u.on.Seconds())
		}
		b.WriteString("\n")
	}
	fmt.Printf("\n%s\nMedians of %d. Bytes are those within TCP; seconds are from the device's SYN to its FIN.\n", b.String(), samples)
}
