package link

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"groundswell/agent/decide"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// session is what link needs of a connection; mqttclient's Client and Session
// both are one.
type session interface {
	Publish(context.Context, mqttclient.Publication) error
	Subscribe(context.Context, []mqttclient.Subscription) error
	Unsubscribe(context.Context, []string) error
}

// conn is one connection, from its CONNECT on.
type conn struct {
	opened      time.Time // by the floor clock
	connect     time.Time // when CONNECT left
	resubscribe chan struct{}
	doubted     chan struct{}   // something was refused
	completed   chan struct{}   // closed when complete
	checkIn     <-chan struct{} // wishes for a sign of life; nil: they are for others
	brief       bool            // who opened it sees to the heartbeats

	// Guarded by Link.mu.
	got      map[string]bool // topics that came over it, and nothing refused since
	doubts   map[string]bool // topics on which the newest message was refused
	complete bool            // the assignment and every assigned manifest did
	heard    time.Duration   // by the clock's Uptime: when the broker was heard last
}

// open begins a connection whose CONNECT left at a time.
func (l *Link) open(connect time.Time) *conn {
	c := &conn{
		opened: l.clock.Now(), connect: connect, heard: l.clock.Uptime(),
		got: map[string]bool{}, doubts: map[string]bool{},
		resubscribe: make(chan struct{}, 1), doubted: make(chan struct{}, 1), completed: make(chan struct{}),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn, l.hint.early = c, map[string][]byte{} // what another one brought is of then
	return c
}

// close ends a connection. What it has brought was current when the broker was
// heard last; that may be long ago, because a connection's loss is noticed
// late, and not at all while the device sleeps.
func (l *Link) close(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != c {
		return
	}
	if c.complete {
		l.view, l.heard = decide.View{Opened: c.opened}, c.heard
	}
	l.conn = nil
	remind(l.changed) // it is no longer live
}

// hear notes that the broker answered over a connection.
func (l *Link) hear(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Uptime()
	if now-c.heard > time.Minute {
		remind(l.changed) // somebody may have waited for it
	}
	c.heard, l.lastHeard = now, now
}

// arrived notes that what came on a topic over the present connection was
// accepted, and whether the check-in is complete by that. Caller holds mu.
func (l *Link) arrived(topic string) {
	c := l.conn
	if c == nil {
		return // came before the connection was announced; it comes again
	}
	now := l.clock.Uptime()
	c.got[topic], c.heard, l.lastHeard = true, now, now
	delete(c.doubts, topic)
	if topic == topics.DeviceAssignment(l.cfg.Device) {
		remind(c.resubscribe)
	}
	complete := l.assignment != nil && c.got[topics.DeviceAssignment(l.cfg.Device)]
	if complete {
		for _, cohort := range l.assignment.body.Cohorts {
			complete = complete && c.got[topics.CohortManifest(cohort)]
		}
	}
	if complete && !c.complete {
		select {
		case <-c.completed: // an assignment has grown since, or a doubt is gone
		default:
			took := time.Since(c.connect)
			l.checkInMS = max(1, took.Milliseconds())
			if l.metrics.checkIns != nil {
				l.metrics.checkIns.Observe(took.Seconds())
			}
			l.log.Info("check-in complete", "ms", l.checkInMS, "cohorts", len(l.assignment.body.Cohorts))
			close(c.completed)
		}
		remind(l.changed)
	}
	c.complete = complete
}

// doubt notes that what came on a topic was refused. Something newer than what
// is held may be known to others, so nothing that is held counts as read until
// the topic has brought a message that verifies. Caller holds mu.
func (l *Link) doubt(topic string) {
	l.view = decide.View{}
	if c := l.conn; c != nil {
		c.complete = false
		delete(c.got, topic)
		c.doubts[topic] = true
		remind(c.doubted)
	}
	remind(l.changed)
}

// grace is how long the first heartbeat of a connection waits for the check-in,
// to tell how long it took.
const grace = time.Second

// serve does what a connection is for until ctx ends with it: subscribes as the
// assignment says, sends reports and heartbeats.
func (l *Link) serve(ctx context.Context, c *conn, s session) error {
	subscribed, err := l.subscribe(ctx, s)
	if err != nil {
		return err
	}
	return l.attend(ctx, c, s, subscribed)
}

// attend is serve for a connection that is subscribed to its own topics, and to the
// manifests of some cohorts.
func (l *Link) attend(ctx context.Context, c *conn, s session, subscribed []string) error {
	l.hear(c)
	var err error
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		l.send(ctx, c, s)
	}()
	defer func() { <-sent }()

	beat := time.NewTimer(grace)
	defer beat.Stop()
	completed, timely := c.completed, beat.C
	if c.brief {
		completed, timely = nil, nil
	}
	// The broker is asked again for what was refused, because it may have been
	// an old message out of order, and nothing else may come for days.
	var again *time.Timer
	var ask <-chan time.Time
	asked := 0
	defer func() {
		if again != nil {
			again.Stop()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.resubscribe:
			if subscribed, err = l.follow(ctx, c, s, subscribed); err != nil {
				return err
			}
		case <-c.doubted:
			if ask == nil {
				limit := min(l.cfg.RootPause<<min(asked, 10), max(time.Hour, l.cfg.RootPause))
				again = time.NewTimer(limit/2 + rand.N(limit/2+1))
				ask = again.C
			}
		case <-ask:
			ask = nil
			asked++
			if subscribed, err = l.follow(ctx, c, s, subscribed); err != nil {
				return err
			}
		case <-c.checkIn:
			l.Heartbeat()
		case <-completed:
			completed = nil
			l.Heartbeat()
			beat.Reset(l.heartbeatEvery())
		case <-timely:
			l.Heartbeat()
			beat.Reset(l.heartbeatEvery())
		}
	}
}

// subscribe asks for everything that is ours as far as is known, in one packet,
// and returns the cohorts that were granted. A cohort that is refused has left
// the assignment meanwhile; the new one is on its way.
func (l *Link) subscribe(ctx context.Context, s session) ([]string, error) {
	subs, cohorts := l.wanted()
	return l.refusals(s.Subscribe(ctx, subs), cohorts)
}

// wanted is everything that is ours as far as is known, and the cohorts among it.
func (l *Link) wanted() (subs []mqttclient.Subscription, cohorts []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	cohorts = slices.Clone(l.hint.cohorts)
	if l.assignment != nil {
		cohorts = slices.Clone(l.assignment.body.Cohorts)
	}
	filters := []string{topics.DeviceAssignment(l.cfg.Device), topics.DeviceCommand(l.cfg.Device)}
	for _, cohort := range cohorts {
		filters = append(filters, topics.CohortManifest(cohort))
	}
	return subscriptions(filters), cohorts
}

// follow brings the subscriptions in line with the assignment.
func (l *Link) follow(ctx context.Context, c *conn, s session, have []string) ([]string, error) {
	l.mu.Lock()
	if l.assignment == nil || c.doubts[topics.DeviceAssignment(l.cfg.Device)] {
		l.mu.Unlock()
		return l.subscribe(ctx, s) // it was withdrawn, or another refused: read it again
	}
	want := slices.Clone(l.assignment.body.Cohorts)
	var missing, left []string
	for _, cohort := range want {
		if _, held := l.manifests[cohort]; !held || !contains(have, cohort) || c.doubts[topics.CohortManifest(cohort)] {
			missing = append(missing, cohort)
		}
	}
	l.mu.Unlock()
	for _, cohort := range have {
		if !contains(want, cohort) {
			left = append(left, topics.CohortManifest(cohort))
		}
	}
	if len(left) > 0 {
		// The broker may have ended them already, with the new assignment.
		if err := s.Unsubscribe(ctx, left); err != nil && !refusedOnly(err) {
			return have, err
		}
	}
	have = slices.DeleteFunc(slices.Clone(have), func(cohort string) bool {
		return !contains(want, cohort) || contains(missing, cohort)
	})
	if len(missing) == 0 {
		return have, nil
	}
	var filters []string
	for _, cohort := range missing {
		filters = append(filters, topics.CohortManifest(cohort))
	}
	granted, err := l.refusals(s.Subscribe(ctx, subscriptions(filters)), missing)
	return append(have, granted...), err
}

func subscriptions(filters []string) []mqttclient.Subscription {
	var subs []mqttclient.Subscription
	for _, f := range filters {
		subs = append(subs, mqttclient.Subscription{Filter: f, QoS: 1, RetainHandling: mqttclient.RetainSend})
	}
	return subs
}

// refusals sorts the outcome of a subscribe: which cohorts were granted, and an
// error unless only cohorts were refused.
func (l *Link) refusals(err error, cohorts []string) (granted []string, fatal error) {
	denied := map[string]bool{}
	for _, r := range refused(err) {
		name, errParse := topics.Parse(r.Topic)
		if errParse != nil || name.Kind != topics.KindManifest || r.Code != mqttclient.CodeNotAuthorized {
			return nil, err
		}
		denied[name.ID] = true
		l.log.Warn("subscription refused: the cohort is not in the broker's assignment", "cohort", name.ID, "err", r)
	}
	if err != nil && len(denied) == 0 {
		return nil, err
	}
	for _, cohort := range cohorts {
		if !denied[cohort] {
			granted = append(granted, cohort)
		}
	}
	return granted, nil
}

// refused lists the refusals that an error joins.
func refused(err error) []*mqttclient.RefusedError {
	if err == nil {
		return nil
	}
	var list []*mqttclient.RefusedError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			list = append(list, refused(e)...)
		}
		return list
	}
	var r *mqttclient.RefusedError
	if errors.As(err, &r) && !errors.Is(err, mqttclient.ErrConnectionLost) {
		list = append(list, r)
	}
	return list
}

func refusedOnly(err error) bool { return len(refused(err)) > 0 }
