package memory

import (
	"runtime"
	"testing"
)

func TestMemoryIsGivenBackOnceAfterABurst(t *testing.T) {
	var k keeper
	k.look()
	for k.look() { // what the test itself has begun with
	}
	const burst = 256 << 20
	b := make([][]byte, 0, burst>>16)
	for range cap(b) {
		p := make([]byte, 1<<16)
		for i := 0; i < len(p); i += 4096 {
			p[i] = 1
		}
		b = append(b, p)
	}
	if k.look() {
		t.Error("memory was given back in the middle of a burst")
	}
	runtime.KeepAlive(b)
	b = nil
	before := read().held
	if !k.look() {
		t.Fatal("memory was not given back after the burst")
	}
	if after := read().held; before < after+burst/2 {
		t.Errorf("%d MB were held, and %d MB still are, of a burst of %d MB", before>>20, after>>20, burst>>20)
	}
	if k.look() {
		t.Error("it was given back again, for nothing")
	}
}
