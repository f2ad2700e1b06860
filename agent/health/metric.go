package health

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// samples is how often a metric is measured before an update; the median counts.
const samples = 3

// Metrics reports whether there are checks of that kind.
func (c Config) Metrics() bool { return len(c.metrics()) > 0 }

func (c Config) metrics() (list []Check) {
	for _, check := range c.Checks {
		if len(check.Metric) > 0 {
			list = append(list, check)
		}
	}
	return list
}

// ValidateChecks names the check that is wrong, by its place. Metrics are known by their
// names.
func ValidateChecks(key string, checks []Check) error {
	metrics := map[string]bool{}
	for i, check := range checks {
		err := check.Validate()
		if err == nil && len(check.Metric) > 0 {
			if metrics[check.Name] {
				err = fmt.Errorf("name: there are two metrics %q", check.Name)
			}
			metrics[check.Name] = true
		}
		if err != nil {
			return fmt.Errorf("%s[%d]: %w", key, i, err)
		}
	}
	return nil
}

// Measure returns what the metrics are now, by name: to be asked before an update, while
// the old version runs. What cannot be measured is left out, and said in err.
func Measure(ctx context.Context, cfg Config, c Component) (values map[string]float64, err error) {
	cfg = cfg.WithDefaults()
	values = map[string]float64{}
	var errs []error
	for _, check := range cfg.metrics() {
		var found []float64
		for n := range samples {
			if n > 0 {
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-time.After(cfg.Interval):
				}
			}
			limited, cancel := context.WithTimeout(ctx, cfg.Timeout)
			v, err := measure(limited, check.Metric, c)
			cancel()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", check.Name, err))
				continue
			}
			found = append(found, v)
		}
		if len(found) > 0 {
			slices.Sort(found)
			values[check.Name] = found[len(found)/2]
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return values, errors.Join(errs...)
}

// measure runs a command whose first line is a number.
func measure(ctx context.Context, command []string, c Component) (float64, error) {
	out, err := output(ctx, command, c)
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(out, "\n")
	v, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("%s: %.40q is not a number", filepath.Base(command[0]), line)
	}
	return v, nil
}

// compare is nil when a metric is as it was before, within what the check allows. What
// was not known before is not compared.
func (e *examiner) compare(ctx context.Context, check Check, c Component) error {
	before, known := e.before[check.Name]
	if !known {
		return nil
	}
	now, err := measure(ctx, check.Metric, c)
	if err != nil {
		return err
	}
	if least := before*float64(check.MinPercent)/100 - check.Slack; check.MinPercent > 0 && now < least {
		return fmt.Errorf("is %g, and was %g before the update: at least %g is allowed", now, before, least)
	}
	if most := before*float64(check.MaxPercent)/100 + check.Slack; check.MaxPercent > 0 && now > most {
		return fmt.Errorf("is %g, and was %g before the update: at most %g is allowed", now, before, most)
	}
	return nil
}

// validateMetric is Validate for this kind.
func (c *Check) validateMetric() error {
	switch {
	case len(c.Metric) == 0:
		if c.MinPercent != 0 || c.MaxPercent != 0 || c.Slack != 0 {
			return errors.New("min_percent, max_percent, slack: only with metric")
		}
		return nil
	case c.Name == "":
		return errors.New("name: is missing, which a metric needs")
	case !filepath.IsAbs(c.Metric[0]):
		return fmt.Errorf("metric: %q must be an absolute path", c.Metric[0])
	case c.MinPercent < 0 || c.MaxPercent < 0 || c.MinPercent == 0 && c.MaxPercent == 0:
		return errors.New("min_percent, max_percent: one of them must be above 0")
	case c.MaxPercent > 0 && c.MaxPercent < c.MinPercent:
		return errors.New("max_percent: must not be below min_percent")
	case c.Slack < 0 || math.IsNaN(c.Slack) || math.IsInf(c.Slack, 0):
		return errors.New("slack: must be at least 0")
	}
	return nil
}
