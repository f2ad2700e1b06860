//go:build !race

package assemble

const fewer = 1
