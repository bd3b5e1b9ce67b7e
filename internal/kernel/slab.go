package kernel

import (
	"sync"
	"unsafe"

	"github.com/retune-go/retune/internal/pages"
)

// Packed weights that are kept lie side by side in slabs of memory in large pages: a product of few rows takes as long as its weights take to
// come. Slabs grow with what is packed.
const (
	firstSlab, lastSlab = 1 << 20, 32 << 20
	slabItem            = 4 << 20 // what is larger has memory of its own
	slabAlign           = 64
)

// A slab is what is left of one, and the size of the next.
type slab struct {
	rest []byte
	next int
}

var slabs = sync.Pool{New: func() any { return &slab{next: firstSlab} }}

// kept is n zeros for weights that will be used for long.
func kept[T float32 | float64 | uint32](n int) []T {
	size := n * int(unsafe.Sizeof(T(0)))
	if size == 0 || size > slabItem {
		x := make([]T, n)
		pages.Huge(bytesOf(x))
		return x
	}
	s := slabs.Get().(*slab)
	if len(s.rest) < size {
		s.rest = bytesOf(make([]uint64, max(s.next, size)/8+1))
		pages.Huge(s.rest)
		s.next = min(2*s.next, lastSlab)
	}
	x := unsafe.Slice((*T)(unsafe.Pointer(&s.rest[0])), n)
	s.rest = s.rest[min(len(s.rest), (size+slabAlign-1)&^(slabAlign-1)):]
	slabs.Put(s)
	return x
}

func bytesOf[T any](x []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), len(x)*int(unsafe.Sizeof(*new(T))))
}
