package kernel

import (
	"encoding/binary"
	"sync"
	"unsafe"
)

// An itile is the work of one call of a tile function of bytes:
//
//	C[i,j] = Σ A[i]·B[j] + colBy·colSum[j] + add[j] + rowSum[i]·zero[j]
//
// as int32, or where there is a scale as float32, C·(by·scale) + bias, or rounded to bytes. A row's elements are k dwords at each of
// the offsets, and the next row lies pixel bytes on. In a depthwise convolution A has a byte for each column instead.
// The assembly knows the offsets of the fields; a test holds the two together.
type itile struct {
	a       unsafe.Pointer
	offsets *int // in bytes
	taps    int  // how many
	pixel   int  // in bytes
	k       int
	b       *uint32        // taps·k steps of as many dwords as the tile has columns
	c       unsafe.Pointer // of int32, float32 or bytes
	ldc     int            // in bytes
	cols    int            // columns to write; those of the panel but for masked kernels
	colSum  *int32
	zero    *int32 // or nil
	rowSum  *int32
	scale   *float32 // of columns, or nil
	bias    *float32 // or nil
	round   *toBytes // or nil
	add     *int32   // or nil
	colBy   int32
	by      float32
}

// toBytes is how numbers become bytes: between lo and hi, to the nearest integer, plus zero. Each in all lanes.
type toBytes struct {
	zero   [16]int32
	lo, hi [16]float32
}

// An igemmKernel is the tile functions of one level. A dword holds four bytes of k, or two
// 16-bit integers where a sum of products of bytes would saturate.
type igemmKernel struct {
	rows, cols      int
	masked          bool
	bytes           bool
	tile, depthwise []func(t *itile) // by number of rows, from 1
}

// perDword is how many elements along k a dword holds.
func (kern *igemmKernel) perDword() int {
	if kern.bytes {
		return 4
	}
	return 2
}

// size is the bytes of an element of A.
func (kern *igemmKernel) size() int { return 4 / kern.perDword() }

var igemmGo = newIgemmGo()

func newIgemmGo() *igemmKernel {
	kern := &igemmKernel{rows: 4, cols: 4, masked: true, tile: make([]func(*itile), 5), depthwise: make([]func(*itile), 5)}
	for r := range kern.tile {
		kern.tile[r] = func(t *itile) { itileGo(t, r, 4, 2) }
		kern.depthwise[r] = func(t *itile) { itileGo(t, r, 4, 1) }
	}
	return kern
}

var igemmActive = igemmGo

// itileGo is the twin of all tile functions of bytes: per is how many elements of A meet a dword of B, 1 in a depthwise convolution.
func itileGo(t *itile, rows, cols, per int) {
	for i := range rows {
		for j := range t.cols {
			var s int32
			for q := range t.taps {
				a := unsafe.Add(t.a, *at(t.offsets, q)+i*t.pixel)
				if per == 1 {
					s += int32(*(*uint8)(unsafe.Add(a, j))) * int32(int16(*at(t.b, q*cols+j)))
					continue
				}
				for p := range t.k {
					y := *at(t.b, (q*t.k+p)*cols+j)
					if per == 2 {
						x := *(*[2]int16)(unsafe.Add(a, 4*p))
						s += int32(x[0])*int32(int16(y)) + int32(x[1])*int32(int16(y>>16))
						continue
					}
					for z, x := range *(*[4]uint8)(unsafe.Add(a, 4*p)) {
						s += int32(x) * int32(int8(y>>(8*z)))
					}
				}
			}
			s += t.colBy * *at(t.colSum, j)
			if t.add != nil {
				s += *at(t.add, j)
			}
			if t.zero != nil {
				s += *at(t.rowSum, i) * *at(t.zero, j)
			}
			if t.scale == nil {
				*(*int32)(unsafe.Add(t.c, i*t.ldc+4*j)) = s
				continue
			}
			f := float32(float32(s) * float32(t.by**at(t.scale, j)))
			if t.bias != nil {
				f += *at(t.bias, j)
			}
			if t.round == nil {
				*(*float32)(unsafe.Add(t.c, i*t.ldc+4*j)) = f
				continue
			}
			*(*uint8)(unsafe.Add(t.c, i*t.ldc+j)) = toByte(f, float32(t.round.zero[0]), t.round.lo[0]+float32(t.round.zero[0]), t.round.hi[0]+float32(t.round.zero[0]))
		}
	}
}

// PackedS8 is a k×n matrix of int8 laid out for [GemmU8S8], with the sum of each
// column. It may be used by many goroutines at once.
type PackedS8 struct {
	k, n   int
	kern   *igemmKernel
	steps  int // dwords along k
	panels []uint32
	colSum []int32 // filled up to whole panels
}

// PackS8 packs op(B), k×n, with row stride ldb as stored.
func PackS8(transB bool, k, n int, b []int8, ldb int) *PackedS8 {
	checkOperand("B", transB, k, n, b, ldb)
	kern := igemmActive
	per := kern.perDword()
	pb := &PackedS8{k: k, n: n, kern: kern, steps: ceilDiv(k, per)}
	q := ceilDiv(n, kern.cols)
	pb.panels, pb.colSum = kept[uint32](q*kern.cols*pb.steps), make([]int32, q*kern.cols)
	for j := range n {
		panel := pb.panels[j/kern.cols*kern.cols*pb.steps:]
		for p := range k {
			at := p*ldb + j
			if transB {
				at = j*ldb + p
			}
			v := b[at]
			pb.colSum[j] += int32(v)
			panel[p/per*kern.cols+j%kern.cols] |= kern.word(int16(v), p)
		}
	}
	return pb
}

// word is the p-th element along k in its place in a dword.
func (kern *igemmKernel) word(v int16, p int) uint32 {
	if kern.bytes {
		return uint32(uint8(v)) << (p % 4 * 8)
	}
	return uint32(uint16(v)) << (p % 2 * 16)
}

// Dims returns the rows and columns of op(B).
func (pb *PackedS8) Dims() (k, n int) { return pb.k, pb.n }

// GemmU8S8 computes, exactly in 32-bit arithmetic (sums past 2^31 wrap around),
//
//	C[i,j] = Σ_l (A[i,l] - aZero)·(B[l,j] - bZero[j])
//
// A is m×k with row stride lda, B is packed and gives k and n, C is m×n with row
// stride ldc. bZero is nil for 0, or holds one value for all columns, or n.
// Operands of the other sign are brought to these by flipping the top bit of each
// element and of their zero points.
func GemmU8S8(p *Pool, m int, a []uint8, lda int, aZero uint8, pb *PackedS8, bZero []int8, c []int32, ldc int) {
	checkMatrix("C", m, pb.n, c, ldc)
	gemmU8S8(p, m, a, lda, aZero, pb, bZero, unsafe.Pointer(unsafe.SliceData(c)), 4*ldc, nil)
}

// A ByteScale says what becomes of the sums S of [GemmU8S8] for real numbers: (S + Add)·(By·Scale) + Bias. All but By have a number
// for each column; Add and Bias may be nil.
type ByteScale struct {
	Add         []int32
	By          float32
	Scale, Bias []float32
	// Where that is rounded to bytes: plus Zero, between Lo and Hi.
	Zero, Lo, Hi float32
}

// GemmU8S8Float gives the sums of [GemmU8S8] scaled.
func GemmU8S8Float(p *Pool, m int, a []uint8, lda int, aZero uint8, pb *PackedS8, bZero []int8, scale *ByteScale, c []float32, ldc int) {
	checkMatrix("C", m, pb.n, c, ldc)
	gemmU8S8(p, m, a, lda, aZero, pb, bZero, unsafe.Pointer(unsafe.SliceData(c)), 4*ldc, scale)
}

// GemmU8S8Bytes gives the sums of [GemmU8S8] scaled and rounded, halves to even; NaN gives Lo.
func GemmU8S8Bytes(p *Pool, m int, a []uint8, lda int, aZero uint8, pb *PackedS8, bZero []int8, scale *ByteScale, c []uint8, ldc int) {
	checkMatrix("C", m, pb.n, c, ldc)
	gemmU8S8(p, m, a, lda, aZero, pb, bZero, unsafe.Pointer(unsafe.SliceData(c)), ldc, scale)
}

// gemmU8S8 has ldc in bytes.
func gemmU8S8(p *Pool, m int, a []uint8, lda int, aZero uint8, pb *PackedS8, bZero []int8, c unsafe.Pointer, ldc int, scale *ByteScale) {
	n, k, kern := pb.n, pb.k, pb.kern
	checkMatrix("A", m, k, a, lda)
	if len(bZero) > 1 && len(bZero) < n {
		panic("kernel: GemmU8S8: bZero is shorter than the columns of C")
	}
	if m == 0 || n == 0 {
		return
	}
	if m*n*k < 4*serialWork {
		p = nil
	}
	pr := iproducts.Get().(*iproduct)
	pr.m, pr.a, pr.lda, pr.pb, pr.c, pr.ldc = m, a, lda, pb, c, ldc
	pr.zeros(pb, aZero, bZero)
	pr.scaled(scale, 1, n, len(pb.colSum))
	pr.rows, pr.pixel = unsafe.Pointer(unsafe.SliceData(a)), lda
	if !kern.bytes || k%4 != 0 || k == 0 || lda%alias == 0 {
		if pr.pixel = 4 * pb.steps; pr.pixel%alias == 0 {
			pr.pixel += 64
		}
		pr.copied = grow(pr.copied, m*pr.pixel/4+1)
		pr.rows = unsafe.Pointer(unsafe.SliceData(pr.copied))
		p.For(m, 1+65536/(k+1), pr.copyBody)
	}
	if pr.useZero {
		pr.rowSum = grow(pr.rowSum, m)
		p.For(m, 1+65536/(k+1), pr.sumBody)
	}
	panelsM, panelsN := ceilDiv(m, kern.rows), ceilDiv(n, kern.cols)
	pr.blockM = panelsM
	if panelsN < 2*p.Threads() {
		pr.blockM = ceilDiv(panelsM, 4)
	}
	p.For(panelsN*ceilDiv(panelsM, pr.blockM), 1, pr.tilesBody)
	pr.a, pr.pb, pr.c, pr.rows, pr.colSum = nil, nil, nil, nil, nil
	iproducts.Put(pr)
}

// An iproduct is one call of GemmU8S8; they are recycled with their buffers.
type iproduct struct {
	isums
	m, lda, ldc                  int // ldc in bytes
	a                            []uint8
	pb                           *PackedS8
	c                            unsafe.Pointer
	rows                         unsafe.Pointer // A, or its copy
	pixel                        int            // from row to row of that, in bytes
	copied                       []uint32
	rowSum                       []int32 // of A, if zero is in use
	blockM                       int     // panels
	copyBody, sumBody, tilesBody func(lo, hi int)
}

var iproducts = sync.Pool{New: func() any {
	pr := new(iproduct)
	pr.copyBody, pr.sumBody, pr.tilesBody = pr.copy, pr.sum, pr.tiles
	return pr
}}

// isums is what becomes of the sums of columns.
type isums struct {
	colSum, zero []int32 // zero is -bZero
	colBy        int32
	shifted      []int32 // colSum where zero is in use
	useZero      bool
	size         int // of an element of C
	by           float32
	add          []int32
	scale, bias  []float32 // of whole panels
	round        toBytes   // where C is bytes
}

// zeros works out what the zero points add:
//
//	Σ(a-α)(b-β) = Σab - αΣb - βΣa + kαβ
func (s *isums) zeros(pb *PackedS8, aZero uint8, bZero []int8) {
	s.colSum, s.colBy, s.useZero = pb.colSum, -int32(aZero), false
	for _, z := range bZero {
		s.useZero = s.useZero || z != 0
	}
	if !s.useZero {
		return
	}
	s.zero, s.shifted = grow(s.zero, len(pb.colSum)), grow(s.shifted, len(pb.colSum))
	for j := range pb.n {
		s.zero[j] = -int32(bZero[min(j, len(bZero)-1)])
		s.shifted[j] = pb.colSum[j] + int32(pb.k)*s.zero[j]
	}
	s.colSum = s.shifted
}

// scaled readies what is done with the sums of groups of n columns, each filled up to whole panels, which take that much room in all.
func (s *isums) scaled(by *ByteScale, groups, n, room int) {
	s.size, s.scale, s.bias, s.add = 4, s.scale[:0], s.bias[:0], s.add[:0]
	if by == nil {
		return
	}
	s.by, s.scale = by.By, ofPanels(s.scale, by.Scale, groups, n, room)
	if by.Bias != nil {
		s.bias = ofPanels(s.bias, by.Bias, groups, n, room)
	}
	if by.Add != nil {
		s.add = ofPanels(s.add, by.Add, groups, n, room)
	}
	if by.Hi > by.Lo {
		s.size = 1
		for j := range s.round.zero {
			s.round.zero[j], s.round.lo[j], s.round.hi[j] = int32(by.Zero), by.Lo-by.Zero, by.Hi-by.Zero
		}
	}
}

// ofPanels lays numbers of groups of n columns out as their panels are.
func ofPanels[T any](dst, src []T, groups, n, room int) []T {
	dst = grow(dst, room)
	for g := range groups {
		copy(dst[g*room/groups:], src[g*n:][:n])
	}
	return dst
}

// columns has t work on the columns of the panel that begins at j.
func (s *isums) columns(t *itile, j int) {
	t.colSum, t.colBy, t.by = &s.colSum[j], s.colBy, s.by
	t.zero, t.scale, t.add, t.bias, t.round = nil, nil, nil, nil, nil
	if s.useZero {
		t.zero = &s.zero[j]
	}
	if len(s.scale) > 0 {
		t.scale = &s.scale[j]
	}
	if len(s.add) > 0 {
		t.add = &s.add[j]
	}
	if len(s.bias) > 0 {
		t.bias = &s.bias[j]
	}
	if s.size == 1 {
		t.round = &s.round
	}
}

// copy lays out rows [lo, hi) of A in whole dwords.
func (pr *iproduct) copy(lo, hi int) {
	for i := lo; i < hi; i++ {
		row := pr.a[i*pr.lda:][:pr.pb.k]
		if dst := pr.copied[i*pr.pixel/4:]; pr.pb.kern.bytes {
			copy(unsafe.Slice((*uint8)(unsafe.Pointer(unsafe.SliceData(dst))), len(row)), row)
		} else {
			widen(unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(dst))), len(row)), row, 0)
		}
	}
}

// widen sets dst to the bytes of src with some bits turned over.
func widen(dst []uint16, src []uint8, flip uint8) {
	for i, v := range src {
		dst[i] = uint16(v ^ flip)
	}
}

// sum works out the sums of rows [lo, hi).
func (pr *iproduct) sum(lo, hi int) {
	for i := lo; i < hi; i++ {
		pr.rowSum[i] = sumBytes(pr.a[i*pr.lda:][:pr.pb.k])
	}
}

func sumBytes(x []uint8) int32 {
	var s uint64
	for len(x) >= 8 {
		// Lanes of 16 bits, each the sum of two bytes at most 128 times over.
		var lanes uint64
		for n := 0; n < 128 && len(x) >= 8; n++ {
			w := binary.LittleEndian.Uint64(x)
			lanes += w&0x00ff00ff00ff00ff + w>>8&0x00ff00ff00ff00ff
			x = x[8:]
		}
		s += lanes&0xffff + lanes>>16&0xffff + lanes>>32&0xffff + lanes>>48
	}
	for _, v := range x {
		s += uint64(v)
	}
	return int32(s)
}

// tiles makes blocks [lo, hi) of C, each a panel of columns by blockM panels of rows.
func (pr *iproduct) tiles(lo, hi int) {
	pb, kern := pr.pb, pr.pb.kern
	cols, panelsM := kern.cols, ceilDiv(pr.m, kern.rows)
	blocks := ceilDiv(panelsM, pr.blockM)
	ws := getWorkspace[float32]()
	defer ws.put()
	t := &ws.i
	t.taps, t.offsets, t.k, t.pixel = 1, &noOffset, pb.steps, pr.pixel
	for q := lo; q < hi; q++ {
		j, i0 := q/blocks*cols, q%blocks*pr.blockM
		t.b = at(unsafe.SliceData(pb.panels), j*pb.steps)
		pr.columns(t, j)
		for i := i0; i < min(i0+pr.blockM, panelsM); i++ {
			r, end := i*pr.m/panelsM, (i+1)*pr.m/panelsM // all about as high
			t.a = unsafe.Add(pr.rows, r*pr.pixel)
			if pr.useZero {
				t.rowSum = &pr.rowSum[r]
			}
			t.c, t.ldc = unsafe.Add(pr.c, r*pr.ldc+j*pr.size), pr.ldc
			kern.run(kern.tile, t, end-r, min(cols, pb.n-j), pr.size, ws)
		}
	}
}

var noOffset int

// alias is a distance of rows at which those of a tile contend for few places in the first cache.
const alias = 2048

// run computes a tile of that many rows and columns, whose elements of C have size bytes.
func (kern *igemmKernel) run(tiles []func(*itile), t *itile, rows, cols, size int, ws *workspace[float32]) {
	if t.cols = cols; cols == kern.cols || kern.masked {
		tiles[rows](t)
		return
	}
	ws.edge = grow(ws.edge, kern.rows*kern.cols)
	edge, c, ldc := unsafe.Pointer(&ws.edge[0]), t.c, t.ldc
	t.c, t.ldc, t.cols = edge, kern.cols*size, kern.cols
	tiles[rows](t)
	for i := range rows {
		copy(unsafe.Slice((*byte)(unsafe.Add(c, i*ldc)), cols*size), unsafe.Slice((*byte)(unsafe.Add(edge, i*kern.cols*size)), cols*size))
	}
}
