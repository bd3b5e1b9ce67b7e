package kernel

import (
	"fmt"
	"unsafe"
)

// Float is the constraint of everything here that works at both widths.
type Float interface{ float32 | float64 }

// is32 reports whether T is float32. It is a constant in each instantiation.
func is32[T Float]() bool { return unsafe.Sizeof(T(0)) == 4 }

// f32 views x as []float32; T must be float32.
func f32[T Float](x []T) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(x))), len(x))
}

// sameLen panics unless the operands of the function called name have len(dst)
// elements.
func sameLen(name string, dst int, operands ...int) {
	for _, n := range operands {
		if n != dst {
			panic(fmt.Sprintf("kernel: %s: operand of length %d, want %d", name, n, dst))
		}
	}
}
