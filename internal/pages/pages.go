// Package pages tells the system what memory is for. Where it cannot be told, everything works as well, with more page faults or more memory.
package pages

import "unsafe"

// within is the part of b, from a multiple of size on, that is a multiple of size long.
func within(b []byte, size int) []byte {
	if len(b) < size {
		return nil
	}
	skip := -int(addressOf(b)) & (size - 1)
	if skip >= len(b) {
		return nil
	}
	return b[skip:][:(len(b)-skip)&^(size-1)]
}

func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
