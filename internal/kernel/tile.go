package kernel

import (
	"math"
	"unsafe"
)

// A tile is the work of one call of a tile function: a run of products of a panel of A and
// a panel of B over a stretch of k, and what becomes of them:
//
//	C = clamp(alpha·A·B + beta·C + RowBias + ColBias + Residual)
//
// The assembly knows the offsets of the fields; a test holds the two together. Tile functions move the pointers.
type tile[T Float] struct {
	a       *T // panel: k rows of as many elements as the tile has rows
	b       *T // panel: k rows, ldb apart
	c       *T
	rowBias *T // or nil
	colBias *T // or nil
	resid   *T // or nil
	k       int
	ldb     int // in bytes, as are the next two
	ldc     int
	ldr     int
	cols    int                                            // columns to write; those of the panel but for masked kernels
	clamp   int                                            // whether to apply lo and hi
	lda     int                                            // in bytes, of rows of A where they lie
	count   int                                            // tiles of the run
	on      struct{ a, b, c, rowBias, colBias, resid int } // from one tile to the next, in bytes; 0 for what is nil
	ahead   uintptr                                        // where what will be wanted begins, which is fetched meanwhile
	aheadBy int                                            // bytes of it in four steps of k

	alpha, beta, lo, hi T // beta 0 does not read C
}

// A gemmKernel is the tile functions of one level and element type, and how their
// operands are packed.
type gemmKernel[T Float] struct {
	rows, cols int                // of the largest tile
	masked     bool               // takes tiles with fewer columns
	tile       []func(t *tile[T]) // by number of rows, from 1
	rowsTile   []func(t *tile[T]) // the same on rows of A where they lie; nil if there are none

	// Copies into panels; nil where Go does it.
	transpose4  func(dst, src *T, ld, n, stride int)                 // ld in bytes
	transpose16 func(dst, src *T, ld, n, stride int)                 // the same; n is a multiple of 16
	copyRows    map[int]func(dst, src *T, ld, n, panels, stride int) // by width
}

// gemmKernels are the kernels in use at each width.
type gemmKernels struct {
	f32 *gemmKernel[float32]
	f64 *gemmKernel[float64]
}

var gemmGo = gemmKernels{newGoKernel[float32](), newGoKernel[float64]()}

var gemmActive = gemmGo

func activeGemm[T Float]() *gemmKernel[T] {
	if is32[T]() {
		return (*gemmKernel[T])(unsafe.Pointer(gemmActive.f32))
	}
	return (*gemmKernel[T])(unsafe.Pointer(gemmActive.f64))
}

const goRows, goCols = 4, 4

func newGoKernel[T Float]() *gemmKernel[T] {
	kern := &gemmKernel[T]{rows: goRows, cols: goCols, masked: true, tile: make([]func(*tile[T]), goRows+1)}
	for r := 1; r < goRows; r++ {
		kern.tile[r] = func(t *tile[T]) { tilesGo(t, r, goCols) }
	}
	kern.tile[goRows] = func(t *tile[T]) { t.each(tile4x4Go[T]) }
	return kern
}

// each runs f on each tile of a run.
func (t *tile[T]) each(f func(t *tile[T])) {
	for f(t); t.count > 1; f(t) {
		t.count--
		move(&t.a, t.on.a)
		move(&t.b, t.on.b)
		move(&t.c, t.on.c)
		move(&t.rowBias, t.on.rowBias)
		move(&t.colBias, t.on.colBias)
		move(&t.resid, t.on.resid)
	}
}

func move[T any](p **T, by int) { *p = (*T)(unsafe.Add(unsafe.Pointer(*p), by)) }

// tilesGo is the twin of all tile functions.
func tilesGo[T Float](t *tile[T], rows, cols int) {
	t.each(func(t *tile[T]) { tileGo(t, rows, cols) })
}

// tileGo makes one tile.
func tileGo[T Float](t *tile[T], rows, cols int) {
	if t.lda != 0 {
		panel := make([]T, t.k*rows)
		for i := range rows {
			for p := range t.k {
				panel[p*rows+i] = *at((*T)(unsafe.Add(unsafe.Pointer(t.a), i*t.lda)), p)
			}
		}
		packed := *t
		packed.a, packed.lda = unsafe.SliceData(panel), 0
		tileGo(&packed, rows, cols)
		return
	}
	var sums [12 * 32]T
	ldb := t.ldb / int(unsafe.Sizeof(T(0)))
	for p := range t.k {
		a := unsafe.Slice(at(t.a, p*rows), rows)
		b := unsafe.Slice(at(t.b, p*ldb), cols)
		for i, x := range a {
			s := sums[i*cols:][:cols]
			for j, y := range b {
				s[j] += x * y
			}
		}
	}
	finishGo(t, sums[:rows*cols], cols)
}

func tile4x4Go[T Float](t *tile[T]) {
	var s [16]T
	ldb := t.ldb / int(unsafe.Sizeof(T(0)))
	for p := range t.k {
		a := (*[4]T)(unsafe.Pointer(at(t.a, 4*p)))
		b := (*[4]T)(unsafe.Pointer(at(t.b, ldb*p)))
		a0, a1, a2, a3 := a[0], a[1], a[2], a[3]
		b0, b1, b2, b3 := b[0], b[1], b[2], b[3]
		s[0] += a0 * b0
		s[1] += a0 * b1
		s[2] += a0 * b2
		s[3] += a0 * b3
		s[4] += a1 * b0
		s[5] += a1 * b1
		s[6] += a1 * b2
		s[7] += a1 * b3
		s[8] += a2 * b0
		s[9] += a2 * b1
		s[10] += a2 * b2
		s[11] += a2 * b3
		s[12] += a3 * b0
		s[13] += a3 * b1
		s[14] += a3 * b2
		s[15] += a3 * b3
	}
	finishGo(t, s[:], 4)
}

// finishGo does to the sums, cols to a row, what follows the products.
func finishGo[T Float](t *tile[T], sums []T, cols int) {
	size := int(unsafe.Sizeof(T(0)))
	for i := range len(sums) / cols {
		c := unsafe.Slice(at(t.c, i*t.ldc/size), t.cols)
		for j, v := range sums[i*cols:][:t.cols] {
			v *= t.alpha
			if t.beta != 0 {
				v += t.beta * c[j]
			}
			if t.rowBias != nil {
				v += *at(t.rowBias, i)
			}
			if t.colBias != nil {
				v += *at(t.colBias, j)
			}
			if t.resid != nil {
				v += *at(t.resid, i*t.ldr/size+j)
			}
			if t.clamp != 0 {
				v = clip(v, t.lo, t.hi)
			}
			c[j] = v
		}
	}
}

// at returns the address of the element i after p.
func at[T any](p *T, i int) *T {
	return (*T)(unsafe.Add(unsafe.Pointer(p), i*int(unsafe.Sizeof(*p))))
}

// clampOf returns the bounds that stand for an activation, if bounds can.
func (ep *EpilogueOf[T]) clampOf() (lo, hi T, ok bool) {
	switch ep.Act {
	case ActRelu:
		return 0, T(math.Inf(1)), true
	case ActClip:
		return ep.ActAlpha, ep.ActBeta, true
	}
	return 0, 0, false
}
