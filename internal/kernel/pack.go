package kernel

import (
	"fmt"
	"unsafe"
)

// Panels. A matrix packed for the kernels is cut across into panels as wide as a
// tile is high (A) or wide (B). Within a panel the elements of each k lie
// together, so a tile function reads it from end to end. Panels of A are as wide as
// they have rows; those of B are filled up with zeros.

// A side is an operand seen along k: element (i, p) is op(A)[i,p] or op(B)[p,i].
type side[T Float] struct {
	data   []T
	ld     int
	across bool // elements of one p are contiguous, not those of one i
}

func sideA[T Float](trans bool, a []T, lda int) side[T] { return side[T]{a, lda, trans} }
func sideB[T Float](trans bool, b []T, ldb int) side[T] { return side[T]{b, ldb, !trans} }

// packPanel sets dst[p·stride+i] = element (i0+i, p0+p) for i < width, p < n, and
// to zero for width ≤ i < stride.
func (kern *gemmKernel[T]) packPanel(dst []T, s side[T], i0, width, stride, p0, n int) {
	if n == 0 {
		return
	}
	dst = dst[:n*stride]
	if width < stride {
		clear(dst)
	}
	if s.across {
		src := s.data[p0*s.ld+i0:]
		if copyRows := kern.copyRows[width]; copyRows != nil && width == stride {
			copyRows(unsafe.SliceData(dst), unsafe.SliceData(src), s.ld, n, 1, 0)
			return
		}
		for p := range n {
			copy(dst[p*stride:][:width], src[p*s.ld:])
		}
		return
	}
	src := s.data[i0*s.ld+p0:]
	for i := kern.transpose(dst, stride, src, s.ld, width, n); i < width; i++ {
		for p, v := range src[i*s.ld:][:n] {
			dst[p*stride+i] = v
		}
	}
}

// transpose sets dst[j·stride+i] = src[i·ld+j] for j < n and the i < m that the assembly comes to, all but fewer than 4 of them, or none.
func (kern *gemmKernel[T]) transpose(dst []T, stride int, src []T, ld, m, n int) (done int) {
	bytes := ld * int(unsafe.Sizeof(src[0]))
	for ; kern.transpose16 != nil && n >= 16 && done+16 <= m; done += 16 {
		kern.transpose16(&dst[done], &src[done*ld], bytes, n&^15, stride)
		if n%16 != 0 { // the last ones, some for the second time
			kern.transpose16(&dst[(n-16)*stride+done], &src[done*ld+n-16], bytes, 16, stride)
		}
	}
	for ; kern.transpose4 != nil && done+4 <= m; done += 4 {
		kern.transpose4(&dst[done], &src[done*ld], bytes, n, stride)
	}
	return done
}

// Transpose sets dst[j·stride+i] = src[i·ld+j] for i < m, j < n, in assembly; where there is none, or m is no
// multiple of 4, it does nothing and says so.
func Transpose(dst []uint32, stride int, src []uint32, ld, m, n int) bool {
	if gemmActive.f32.transpose4 == nil || m%4 != 0 || m == 0 || n == 0 {
		return false
	}
	_, _ = dst[(n-1)*stride+m-1], src[(m-1)*ld+n-1]
	floats := func(x []uint32) []float32 {
		return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(x))), len(x))
	}
	gemmActive.f32.transpose(floats(dst), stride, floats(src), ld, m, n)
	return true
}

// A cut says how an operand is cut into panels.
type cut struct {
	size int  // elements across
	full int  // width of a panel
	pad  bool // whether the last panel is filled up
}

func (c cut) panels() int { return ceilDiv(c.size, c.full) }

// width returns how many elements of panel q there are, and how many places.
func (c cut) width(q int) (width, stride int) {
	width = min(c.full, c.size-q*c.full)
	if c.pad {
		return width, c.full
	}
	return width, width
}

// packPanels packs elements [p0, p0+n) along k of panels [lo, hi). Panel q begins at
// dst[(q-lo)·k·full], is k deep, and gets them at depth at.
func (kern *gemmKernel[T]) packPanels(dst []T, s side[T], c cut, lo, hi, p0, n, k, at int) {
	q := lo
	if copyRows := kern.copyRows[c.full]; copyRows != nil && s.across && n > 0 {
		if whole := min(hi, c.size/c.full); whole > lo {
			copyRows(&dst[at*c.full], &s.data[p0*s.ld+lo*c.full], s.ld, n, whole-lo, k*c.full)
			q = whole
		}
	}
	for ; q < hi; q++ {
		width, stride := c.width(q)
		kern.packPanel(dst[(q-lo)*k*c.full+at*stride:], s, q*c.full, width, stride, p0, n)
	}
}

// packAll packs panels [lo, hi) of a whole operand, k deep, in steps that the cache holds. Where panels lie they are deep.
func (kern *gemmKernel[T]) packAll(dst []T, s side[T], c cut, k, deep, lo, hi int) {
	for ; lo < hi; lo += packGroup {
		for p := 0; p < k; p += depth {
			kern.packPanels(dst[lo*c.full*deep:], s, c, lo, min(lo+packGroup, hi), p, min(depth, k-p), deep, p)
		}
	}
}

// packGroup is how many panels are packed side by side.
const packGroup = 8

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// PackedBOf is a right operand laid out for the kernels once, to be used in many
// products. It may be used by many goroutines at once.
type PackedBOf[T Float] struct {
	k, n   int
	kern   *gemmKernel[T]
	panels []T
	deep   int // of a panel, of which k rows from its beginning count
}

// PackedB is that of [SgemmPackedB].
type PackedB = PackedBOf[float32]

// PackB packs op(B), k×n.
func PackB[T Float](transB bool, k, n int, b []T, ldb int) *PackedBOf[T] {
	return PackBInto(make([]T, PackedBSize[T](k, n)), transB, k, n, b, ldb)
}

// PackedBSize is the elements of room that a packed operand takes.
func PackedBSize[T Float](k, n int) int {
	kern := activeGemm[T]()
	return ceilDiv(n, kern.cols) * kern.cols * k
}

// PackBInto packs op(B), k×n, into room, which it keeps.
func PackBInto[T Float](room []T, transB bool, k, n int, b []T, ldb int) *PackedBOf[T] {
	pb := PackedBIn(room, k, n)
	pb.Pack(transB, b, ldb)
	return pb
}

// PackedBIn is a k×n operand in room, which it keeps. It waits for [PackedBOf.Pack], of all of it or of some [PackedBOf.Rows] after others.
func PackedBIn[T Float](room []T, k, n int) *PackedBOf[T] {
	return &PackedBOf[T]{k, n, activeGemm[T](), room[:PackedBSize[T](k, n)], k}
}

// Rows is rows [lo, hi) of the operand, where they lie.
func (pb *PackedBOf[T]) Rows(lo, hi int) *PackedBOf[T] {
	if lo < 0 || lo > hi || hi > pb.k {
		panic(fmt.Sprintf("kernel: rows %d to %d of %d", lo, hi, pb.k))
	}
	return &PackedBOf[T]{hi - lo, pb.n, pb.kern, pb.panels[min(lo*pb.kern.cols, len(pb.panels)):], pb.deep}
}

// Pack fills it with op(B).
func (pb *PackedBOf[T]) Pack(transB bool, b []T, ldb int) { pb.pack(nil, sideB(transB, b, ldb)) }

// PackWeights is [PackB] for a B that many products will use; p's goroutines pack it.
func PackWeights[T Float](p *Pool, transB bool, k, n int, b []T, ldb int) *PackedBOf[T] {
	pb := PackedBIn(kept[T](PackedBSize[T](k, n)), k, n)
	pb.pack(p, sideB(transB, b, ldb))
	return pb
}

func (pb *PackedBOf[T]) pack(p *Pool, b side[T]) {
	checkOperand("B", !b.across, pb.k, pb.n, b.data, b.ld)
	c := cut{pb.n, pb.kern.cols, true}
	p.For(c.panels(), max(1, serialWork/(pb.kern.cols*max(1, pb.k))), func(lo, hi int) { pb.kern.packAll(pb.panels, b, c, pb.k, pb.deep, lo, hi) })
}

// Dims returns the rows and columns of op(B).
func (pb *PackedBOf[T]) Dims() (k, n int) { return pb.k, pb.n }

// PackedAOf is a left operand laid out for the kernels once, to be used in many
// products. It may be used by many goroutines at once.
type PackedAOf[T Float] struct {
	m, k   int
	kern   *gemmKernel[T]
	panels []T
}

// PackedA is that of [SgemmPackedA].
type PackedA = PackedAOf[float32]

// PackA packs op(A), m×k.
func PackA[T Float](transA bool, m, k int, a []T, lda int) *PackedAOf[T] {
	checkOperand("A", transA, m, k, a, lda)
	kern := activeGemm[T]()
	pa := &PackedAOf[T]{m, k, kern, make([]T, m*k)}
	c := cut{m, kern.rows, false}
	kern.packAll(pa.panels, sideA(transA, a, lda), c, k, k, 0, c.panels())
	return pa
}

// Dims returns the rows and columns of op(A).
func (pa *PackedAOf[T]) Dims() (m, k int) { return pa.m, pa.k }

// SamePacked reports whether a product of m rows and n columns reads op(B) where it lies, with the very result that it has by the packed matrix.
func SamePacked[T Float](m, n int, transB bool) bool {
	return !transB && n > narrowest && m <= activeGemm[T]().rows
}
