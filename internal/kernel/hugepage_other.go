//go:build !linux

package kernel

func preferHugePages(first, end uintptr) {}
