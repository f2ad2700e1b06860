package main

import (
	"context"
	"testing"
	"time"

	"groundswell/internal/devstack/stack"
)

func TestFleetdBecomesReady(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s, err := stack.Start(ctx, stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		t.Log(s.Fleetd.LogTail(50))
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()
}
