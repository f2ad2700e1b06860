package simulation

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"groundswell/agent/boot"
	"groundswell/agent/boot/shell"
)

// TestTheModelIsTheScript: what boots in the simulation is what the script would boot,
// and what is written then is what the script writes.
func TestTheModelIsTheScript(t *testing.T) {
	states := []boot.State{{Active: "a"}, {Active: "b"}, {Active: "a", Boot: "0123abcd"}}
	for _, active := range []string{"a", "b"} {
		for tries := range boot.MaxTries + 1 {
			states = append(states, boot.State{Active: active, Trial: boot.Other(active), Tries: tries, Boot: "0123abcd"})
		}
		states = append(states, boot.State{Active: active, Trial: boot.Other(active), Over: true})
	}
	for _, s := range states {
		t.Run(fmt.Sprintf("%+v", s), func(t *testing.T) {
			block := filepath.Join(t.TempDir(), "grubenv")
			if out, err := exec.Command("grub-editenv", block, "create").CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			chain := boot.GRUB{Path: block}
			if err := chain.Store(context.Background(), s); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("/bin/sh", "-c", shell.GRUB(block)).CombinedOutput()
			if err != nil {
				t.Fatalf("%v %s", err, out)
			}
			got, err := chain.Load(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			want := s
			first := choose(&want, func(boot.State) error { return nil })
			if order := strings.Fields(string(out)); len(order) != 2 || order[0] != first || order[1] != boot.Other(first) {
				t.Errorf("the script boots %v, the model %s", order, first)
			}
			if got != want {
				t.Errorf("the script leaves %+v, the model %+v", got, want)
			}
		})
	}
}
