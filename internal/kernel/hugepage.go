package kernel

import "unsafe"

// hugePage is the bytes of a large page of memory; largePanels is from how many bytes on weights ask for such.
const (
	hugePage    = 2 << 20
	largePanels = 256 << 10
)

// newPanels gives room for n elements of weights that will be read time and again. A product of few rows by them goes as fast as they come
// from memory, and from large pages they come up to twice as fast: processors fetch ahead within a page alone, and know few of them at a time.
func newPanels[T any](n int) []T {
	x := make([]T, n)
	if size := n * int(unsafe.Sizeof(*new(T))); size >= largePanels {
		first := uintptr(unsafe.Pointer(unsafe.SliceData(x))) &^ (hugePage - 1)
		end := uintptr(unsafe.Pointer(unsafe.SliceData(x))) + uintptr(size)
		preferHugePages(first, (end+hugePage-1)&^(hugePage-1))
	}
	return x
}
