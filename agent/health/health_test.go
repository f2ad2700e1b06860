package health

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/internal/devstack/devtest"
)

// story tells what the component is like at a time since the begin.
type story func(at time.Duration) (c Component, answer error)

func run(t *testing.T, s story) (v Verdict, took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{URL: "http://{addr}/", Interval: time.Second, Settle: 10 * time.Second, Total: time.Minute}.WithDefaults()
		began := time.Now()
		var answer error
		look := func() Component {
			var c Component
			c, answer = s(time.Since(began))
			return c
		}
		var err error
		v, err = watch(t.Context(), cfg, look, func(context.Context, Component) *problem {
			if answer == nil {
				return nil
			}
			return &problem{kindHTTP, answer}
		})
		if err != nil {
			t.Fatal(err)
		}
		took = time.Since(began)
	})
	return v, took
}

var well = Component{OnTrial: true, Up: true, BootID: "1"}

func TestSettlingTimeHasNoBreak(t *testing.T) {
	bad := errors.New("500")
	cases := []struct {
		name   string
		script story
		want   string
		took   time.Duration
	}{
		{"well from the start", func(time.Duration) (Component, error) { return well, nil }, ReasonHealthy, 10 * time.Second},
		{"slow start", func(at time.Duration) (Component, error) {
			if at < 20*time.Second {
				return well, bad
			}
			return well, nil
		}, ReasonHealthy, 30 * time.Second},
		{"a break begins it anew", func(at time.Duration) (Component, error) {
			if at == 9*time.Second {
				return well, bad
			}
			return well, nil
		}, ReasonHealthy, 20 * time.Second},
		{"a crash between two checks begins it anew", func(at time.Duration) (Component, error) {
			c := well
			if at >= 9*time.Second {
				c.BootID = "2"
			}
			return c, nil
		}, ReasonHealthy, 19 * time.Second},
		{"never well", func(time.Duration) (Component, error) { return well, bad }, ReasonOf(kindHTTP), time.Minute},
		{"never up", func(time.Duration) (Component, error) { return Component{OnTrial: true}, nil }, ReasonProcess, time.Minute},
		{"well every other second", func(at time.Duration) (Component, error) {
			if at/time.Second%2 == 0 {
				return well, bad
			}
			return well, nil
		}, ReasonOf(kindHTTP), time.Minute},
		{"its time does not run while it is being installed", func(at time.Duration) (Component, error) {
			c := well
			c.Busy, c.Up = at < time.Hour, at >= time.Hour
			return c, nil
		}, ReasonHealthy, time.Hour + 10*time.Second},
		{"another version", func(time.Duration) (Component, error) {
			c := well
			c.Other = "7.0.0"
			return c, nil
		}, ReasonVersion, time.Minute},
		{"fell back", func(at time.Duration) (Component, error) {
			return Component{OnTrial: at < 5*time.Second, Up: true, BootID: "1"}, nil
		}, ReasonFellBack, 5 * time.Second},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v, took := run(t, c.script)
			if v.Reason != c.want || v.Healthy != (c.want == ReasonHealthy) || took != c.took {
				t.Errorf("got %+v after %v, want %s after %v", v, took, c.want, c.took)
			}
		})
	}
}

func TestOnlyStatus200IsWell(t *testing.T) {
	const short = 50 * time.Millisecond // in which it would settle
	status := 200
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status == 302 {
			http.Redirect(w, r, "/elsewhere", status)
			return
		}
		w.WriteHeader(status)
	}))
	defer s.Close()
	look := func() Component {
		return Component{OnTrial: true, Up: true, BootID: "1", Addr: strings.TrimPrefix(s.URL, "http://")}
	}
	for _, c := range []struct {
		status int
		want   bool
		total  time.Duration
	}{{200, true, devtest.Patience}, {204, false, short}, {302, false, short}, {404, false, short}, {500, false, short}} {
		cfg := Config{URL: "http://{addr}/healthz", Interval: time.Millisecond, Settle: 5 * time.Millisecond, Total: c.total}.WithDefaults()
		status = c.status
		if v, err := Watch(t.Context(), cfg, look); err != nil || v.Healthy != c.want {
			t.Errorf("%d: %+v, %v", c.status, v, err)
		}
	}
}

// At the very end of the settling time it crashes, and the next launch answers.
func TestAnswerOfAnotherLaunchProvesNothing(t *testing.T) {
	for name, change := range map[string]func(*Component){
		"launched again": func(c *Component) { c.BootID = "2" },
		"ended":          func(c *Component) { c.Up = false },
		"fell back":      func(c *Component) { c.OnTrial, c.BootID = false, "2" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := Config{URL: "x", Interval: time.Second, Settle: 10 * time.Second, Total: 40 * time.Second}
				began := time.Now()
				c := Component{OnTrial: true, Up: true, BootID: "1"}
				v, err := watch(t.Context(), cfg, func() Component { return c }, func(context.Context, Component) *problem {
					if time.Since(began) == cfg.Settle {
						change(&c)
					}
					return nil
				})
				if took := time.Since(began); err != nil || v.Healthy && took < 2*cfg.Settle || v.Healthy != (name == "launched again") {
					t.Errorf("%+v after %v, %v", v, took, err)
				}
			})
		})
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Watch(ctx, Config{}.WithDefaults(), func() Component { return well }); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}
