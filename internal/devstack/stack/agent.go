package stack

import (
	"time"

	"groundswell/internal/devstack"
)

// Agent is a device: an agent process with its own directory.
type Agent struct {
	ID      string
	Dir     string
	Process *devstack.Process
}

// Stop ends the agent.
func (a *Agent) Stop() error { return a.Process.Stop(15 * time.Second) }
