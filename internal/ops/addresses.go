package ops

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// WriteAddresses tells whoever started the process where it listens, after
// every listener is bound: a JSON object of name -> host:port, written beside
// path and renamed, so that a reader sees all of it or nothing. An empty path
// does nothing; empty addresses are left out.
func WriteAddresses(path string, addresses map[string]string) error {
	if path == "" {
		return nil
	}
	bound := map[string]string{}
	for name, addr := range addresses {
		if addr != "" {
			bound[name] = addr
		}
	}
	data, err := json.Marshal(bound)
	if err != nil {
		return fmt.Errorf("addresses file: %w", err)
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.WriteFile(tmp, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("addresses file: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("addresses file: %w", err)
	}
	return nil
}
