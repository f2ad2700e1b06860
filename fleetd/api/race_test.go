package api_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"groundswell/fleetd/api"
	"groundswell/internal/devstack/devtest"
)

// heldUp runs both calls while another session holds the rollouts' rows until
// both wait for it, so that neither is over before the other begins.
func (w *world) heldUp(name string, calls [2]call) (answers [2]answer) {
	w.t.Helper()
	pg := devtest.Postgres(w.t)
	query := func(sql string) string {
		out, err := pg.Query(w.t.Context(), name, sql)
		if err != nil {
			w.t.Error(err)
		}
		return strings.TrimSpace(out)
	}
	var all sync.WaitGroup
	all.Go(func() {
		query(`BEGIN; SELECT FROM rollout FOR UPDATE;
			DO $$ BEGIN
				FOR i IN 1..3000 LOOP
					PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
					IF (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock') = 2 THEN RETURN; END IF;
				END LOOP;
				RAISE 'the two calls did not meet';
			END $$; COMMIT`)
	})
	devtest.Eventually(w.t, 0, "the rows to be held", devtest.True(func() bool {
		return query(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`) == "1"
	}))
	for i, c := range calls {
		all.Go(func() { answers[i] = w.do(c) })
	}
	all.Wait()
	return answers
}

func TestOfTwoOperatorsWhoPauseAndResumeAtOnceOneIsTold(t *testing.T) {
	url, name := devtest.NamedDatabase(t)
	w := newWorldOn(t, url)
	r := w.started()
	for round := range 4 {
		// Both have seen the same, and do the same about it.
		action, state := "pause", "paused"
		if round%2 == 1 {
			action, state = "resume", "running"
		}
		step := call{method: "POST", path: "/v1/rollouts/" + r.ID + "/" + action, body: `{"reason":"one"}`, header: match(r.Revision)}
		answers := w.heldUp(name, [2]call{step, step})
		statuses := []int{answers[0].status, answers[1].status}
		if slices.Sort(statuses); !slices.Equal(statuses, []int{200, 412}) {
			t.Fatalf("%s: %d %s, %d %s", action, answers[0].status, answers[0].raw, answers[1].status, answers[1].raw)
		}
		var now api.Rollout
		w.must(200, &now, call{method: "GET", path: "/v1/rollouts/" + r.ID})
		if now.State != state || now.Revision != r.Revision+1 {
			t.Fatalf("%s: %s, revision %d after %d", action, now.State, now.Revision, r.Revision)
		}
		r = now
	}
	var events struct{ Items []api.Event }
	w.must(200, &events, call{method: "GET", path: "/v1/rollouts/" + r.ID + "/events"})
	var kinds []string
	for _, e := range events.Items[2:] { // create, start
		kinds = append(kinds, strings.TrimPrefix(e.Kind, "rollout."))
	}
	if got := strings.Join(kinds, " "); got != "pause resume pause resume" {
		t.Errorf("events: %s", got)
	}
}

// Each looks, and turns round what it sees, again and again.
func TestOperatorsWhoTurnARolloutRoundNeverUndoWhatTheyHaveNotSeen(t *testing.T) {
	w := newWorld(t)
	first := w.started()
	won := make([]int64, 3)
	var all sync.WaitGroup
	for i := range won {
		all.Go(func() {
			for range 12 {
				var r api.Rollout
				if a := w.do(call{method: "GET", path: "/v1/rollouts/" + first.ID}); json.Unmarshal(a.raw, &r) != nil || a.status != 200 {
					t.Errorf("%d %s", a.status, a.raw)
					return
				}
				action := map[string]string{"running": "pause", "paused": "resume"}[r.State]
				a := w.do(call{method: "POST", path: "/v1/rollouts/" + r.ID + "/" + action, header: match(r.Revision)})
				switch a.status {
				case 200:
					won[i]++
				case 412:
				default:
					t.Errorf("%s of a rollout that was %s: %d %s", action, r.State, a.status, a.raw)
				}
			}
		})
	}
	all.Wait()
	var last api.Rollout
	w.must(200, &last, call{method: "GET", path: "/v1/rollouts/" + first.ID})
	changes := won[0] + won[1] + won[2]
	if last.Revision != first.Revision+changes || last.State != map[int64]string{0: "running", 1: "paused"}[changes%2] {
		t.Errorf("%s, revision %d, after %d changes of revision %d", last.State, last.Revision, changes, first.Revision)
	}
	var events struct{ Items []api.Event }
	w.must(200, &events, call{method: "GET", path: "/v1/rollouts/" + first.ID + "/events?limit=1000"})
	if len(events.Items) != int(changes)+2 {
		t.Errorf("%d events of %d changes", len(events.Items), changes)
	}
	for i, e := range events.Items[2:] {
		if want := []string{"rollout.pause", "rollout.resume"}[i%2]; e.Kind != want || fmt.Sprint(e.After-e.Before) != "1" {
			t.Errorf("event %d: %+v, want %s", i, e, want)
		}
	}
}
