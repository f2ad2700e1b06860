package link

import (
	"context"
	"maps"
	"sync"
	"time"

	"groundswell/agent/journal"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// pollOnce is one check-in of a device that polls. Everything that it has to say leaves
// with CONNECT, the subscriptions among it, and the broker answers with all that it has;
// so where nothing is new, a check-in takes one round trip after the TLS handshake.
// What comes of what it brought (a heartbeat that says so, a report) takes another.
func (l *Link) pollOnce(ctx context.Context) error {
	l.Heartbeat()
	reports := l.journal.Waiting(mqttclient.MaxFlight, mqttclient.MaxFlightBytes/2) // topics and properties come on top
	defer l.journal.Sending(reports...)()
	subs, cohorts := l.wanted()
	flight := mqttclient.Flight{Subscribe: subs}
	for _, r := range reports {
		flight.Publish = append(flight.Publish, l.publication(r))
	}
	said := l.knows()

	// What the broker answers with comes as soon as CONNACK, and must not be taken
	// for what came before the connection.
	announced := make(chan struct{})
	announce := sync.OnceFunc(func() { close(announced) })
	defer announce()
	cfg := l.mqtt()
	cfg.OnMessage = func(m mqttclient.Message) {
		<-announced
		l.receive(m)
	}
	s, err := mqttclient.DialWith(ctx, cfg, flight)
	if err != nil {
		return err
	}
	defer s.Disconnect()
	c := l.open(s.ConnectedAt.Add(-s.Timing.Connect))
	c.brief = true
	defer l.close(c)
	announce()
	subscribed, err := l.landed(ctx, c, s, reports, cohorts)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- l.attend(serving, c, s, subscribed) }()
	defer func() {
		stop()
		if served != nil {
			<-served
		}
	}()

	timeout := time.NewTimer(l.cfg.CheckInTimeout)
	defer timeout.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.Done():
		return s.Err()
	case err := <-served:
		served = nil
		return err
	case <-c.completed:
	case <-timeout.C:
		// A device that fleetd does not know yet has no assignment: its
		// heartbeat makes it known.
		l.log.Info("check-in is not complete in time")
		l.change(func() { l.turn++ })
	}
	l.decided(ctx)
	if !l.knows().same(said) {
		l.Heartbeat()
	}
	return l.drain(ctx, s.Done(), s.Err)
}

// landed takes note of what became of a flight, and returns the cohorts that were
// granted.
func (l *Link) landed(ctx context.Context, c *conn, s *mqttclient.Session, reports []journal.Report, cohorts []string) ([]string, error) {
	landing, err := s.Landed(ctx)
	for i, report := range reports {
		l.sent(ctx, c, report, landing.Published[i])
	}
	if err != nil {
		return nil, err
	}
	// What is retained has come before the answers; it is to be known before anybody
	// asks for what is missing.
	if err := s.Handled(ctx); err != nil {
		return nil, err
	}
	return l.refusals(landing.Subscribed, cohorts)
}

// decideTime bounds how long a connection is kept up for who decides about what it has
// brought.
const decideTime = 2 * time.Second

// decided waits until the device has decided about what a check-in has brought, so that
// what it reports about it leaves with it.
func (l *Link) decided(ctx context.Context) {
	if l.cfg.Decided == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, decideTime)
	defer cancel()
	l.cfg.Decided(ctx)
}

// knowledge is what a heartbeat says of what the device was told.
type knowledge struct {
	assignment int64
	manifests  map[string]int64
	mode       topics.Mode
	interval   time.Duration
}

func (k knowledge) same(other knowledge) bool {
	return k.assignment == other.assignment && k.mode == other.mode && k.interval == other.interval && maps.Equal(k.manifests, other.manifests)
}

func (l *Link) knows() knowledge {
	k := knowledge{manifests: map[string]int64{}}
	var jitter time.Duration
	k.mode, k.interval, jitter = l.schedule()
	k.interval += jitter
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.assignment != nil {
		k.assignment = l.assignment.body.Version
	}
	for cohort, m := range l.manifests {
		k.manifests[cohort] = m.body.Version
	}
	return k
}

// drain waits until everything in the journal was sent. It gives up quietly
// when the broker does not take it in time: it stays for the next check-in. gone is
// closed when the connection is lost, and why says why.
func (l *Link) drain(ctx context.Context, gone <-chan struct{}, why func() error) error {
	timeout := time.NewTimer(l.cfg.CheckInTimeout)
	defer timeout.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, waiting := l.journal.Next(); !waiting {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-gone:
			return why()
		case <-timeout.C:
			return nil
		case <-tick.C:
		}
	}
}
