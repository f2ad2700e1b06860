package devtest

import (
	"os"
	"syscall"
)

// WriteProgram is os.WriteFile for what is to be run at once. What another test starts meanwhile
// must not inherit the file while it is written: until that has called exec, the program could not
// be run ("text file busy").
func WriteProgram(path string, data []byte, mode os.FileMode) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, data, mode)
}
