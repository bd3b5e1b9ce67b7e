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
// as int32, or where there is a scale as float32, C·(by·scale) + bias, or rounded to bytes.
// The assembly knows the offsets of the fields; a test holds the two together.
type itile struct {
	a      *uint32        // k steps of as many dwords as the tile has rows
	b      *uint32        // k steps of as many dwords as it has columns
	c      unsafe.Pointer // of int32, float32 or bytes
	colSum *int32
	zero   *int32 // or nil
	rowSum *int32
	k      int
	ldc    int             // in bytes
	cols   int             // columns to write; those of the panel but for masked kernels
	scale  *float32        // of columns, or nil
	bias   *float32        // or nil
	round  *[3][16]float32 // zero, least and greatest of bytes, each in all lanes, or nil
	add    *int32          // or nil
	colBy  int32
	by     float32
}

// An igemmKernel is the tile functions of one level. A dword holds four bytes of k, or two
// 16-bit integers where a sum of products of bytes would saturate.
type igemmKernel struct {
	rows, cols int
	masked     bool
	bytes      bool
	tile       []func(t *itile) // by number of rows, from 1

	transpose4 func(dst, src *float32, ld, n, stride int)
}

// perDword is how many elements along k a dword holds.
func (kern *igemmKernel) perDword() int {
	if kern.bytes {
		return 4
	}
	return 2
}

var igemmGo = &igemmKernel{rows: 4, cols: 4, masked: true, tile: func() []func(*itile) {
	tiles := make([]func(*itile), 5)
	for r := range tiles {
		tiles[r] = func(t *itile) { itileGo(t, r, 4, false) }
	}
	return tiles
}()}

var igemmActive = igemmGo

// itileGo is the twin of all tile functions of bytes.
func itileGo(t *itile, rows, cols int, bytes bool) {
	for i := range rows {
		for j := range t.cols {
			var s int32
			for p := range t.k {
				x, y := *at(t.a, p*rows+i), *at(t.b, p*cols+j)
				if bytes {
					for q := 0; q < 32; q += 8 {
						s += int32(uint8(x>>q)) * int32(int8(y>>q))
					}
				} else {
					s += int32(int16(x))*int32(int16(y)) + int32(int16(x>>16))*int32(int16(y>>16))
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
			*(*uint8)(unsafe.Add(t.c, i*t.ldc+j)) = toByte(f, t.round[0][0], t.round[1][0], t.round[2][0])
		}
	}
}

// PackedS8 is a k×n matrix of int8 laid out for [GemmU8S8], with the sum of each
// column. It may be used by many goroutines at once.
type PackedS8 struct {
	k, n   int
	kern   *igemmKernel
	panels []uint32
	colSum []int32 // filled up to whole panels
}

// PackS8 packs op(B), k×n, with row stride ldb as stored.
func PackS8(transB bool, k, n int, b []int8, ldb int) *PackedS8 {
	checkOperand("B", transB, k, n, b, ldb)
	kern := igemmActive
	per := kern.perDword()
	q, steps := ceilDiv(n, kern.cols), ceilDiv(k, per)
	pb := &PackedS8{k: k, n: n, kern: kern, panels: make([]uint32, q*kern.cols*steps), colSum: make([]int32, q*kern.cols)}
	for j := range n {
		panel := pb.panels[j/kern.cols*kern.cols*steps:]
		for p := range k {
			at := p*ldb + j
			if transB {
				at = j*ldb + p
			}
			v := b[at]
			pb.colSum[j] += int32(v)
			word := uint32(uint8(v)) << (p % 4 * 8)
			if per == 2 {
				word = uint32(uint16(v)) << (p % 2 * 16)
			}
			panel[p/per*kern.cols+j%kern.cols] |= word
		}
	}
	return pb
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
	n, k := pb.n, pb.k
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
	pr.zeros(aZero, bZero)
	pr.scaled(scale)
	pr.steps = ceilDiv(k, pb.kern.perDword())
	pr.packed = grow(pr.packed, m*pr.steps)
	pr.rowSum = grow(pr.rowSum, m)
	panelsM, panelsN := ceilDiv(m, pb.kern.rows), ceilDiv(n, pb.kern.cols)
	p.For(panelsM, 8, pr.packBody)
	pr.blockM = panelsM
	if panelsN < 2*p.Threads() {
		pr.blockM = ceilDiv(panelsM, 4)
	}
	p.For(panelsN*ceilDiv(panelsM, pr.blockM), 1, pr.tilesBody)
	pr.a, pr.pb, pr.c, pr.colSum = nil, nil, nil, nil
	iproducts.Put(pr)
}

// An iproduct is one call of GemmU8S8; they are recycled with their buffers.
type iproduct struct {
	m, lda, ldc  int // ldc in bytes
	a            []uint8
	pb           *PackedS8
	c            unsafe.Pointer
	size         int      // of an element of C
	packed       []uint32 // A
	steps        int      // dwords along k
	rowSum       []int32  // of A, if zero is in use
	colSum, zero []int32  // zero is -bZero
	colBy        int32
	shifted      []int32 // colSum where zero is in use
	useZero      bool
	by           float32
	add          []int32
	scale, bias  []float32      // of whole panels
	round        [3][16]float32 // zero, least and greatest where C is bytes
	blockM       int            // panels
	packBody     func(lo, hi int)
	tilesBody    func(lo, hi int)
}

var iproducts = sync.Pool{New: func() any {
	pr := new(iproduct)
	pr.packBody, pr.tilesBody = pr.pack, pr.tiles
	return pr
}}

// zeros works out what the zero points add:
//
//	Σ(a-α)(b-β) = Σab - αΣb - βΣa + kαβ
func (pr *iproduct) zeros(aZero uint8, bZero []int8) {
	pb := pr.pb
	pr.colSum, pr.colBy, pr.useZero = pb.colSum, -int32(aZero), false
	for _, z := range bZero {
		pr.useZero = pr.useZero || z != 0
	}
	if !pr.useZero {
		return
	}
	pr.zero, pr.shifted = grow(pr.zero, len(pb.colSum)), grow(pr.shifted, len(pb.colSum))
	for j := range pb.n {
		pr.zero[j] = -int32(bZero[min(j, len(bZero)-1)])
		pr.shifted[j] = pb.colSum[j] + int32(pb.k)*pr.zero[j]
	}
	pr.colSum = pr.shifted
}

// scaled readies what is done with the sums.
func (pr *iproduct) scaled(s *ByteScale) {
	pr.size, pr.scale, pr.bias, pr.add = 4, pr.scale[:0], pr.bias[:0], pr.add[:0]
	if s == nil {
		return
	}
	n, whole := pr.pb.n, len(pr.pb.colSum)
	pr.by, pr.scale = s.By, grow(pr.scale, whole)
	copy(pr.scale, s.Scale[:n])
	if s.Bias != nil {
		pr.bias = grow(pr.bias, whole)
		copy(pr.bias, s.Bias[:n])
	}
	if s.Add != nil {
		pr.add = grow(pr.add, whole)
		copy(pr.add, s.Add[:n])
	}
	if s.Hi > s.Lo {
		pr.size = 1
		for i, v := range [3]float32{s.Zero, s.Lo, s.Hi} {
			for j := range pr.round[i] {
				pr.round[i][j] = v
			}
		}
	}
}

// pack lays out panels [lo, hi) of A, and sums its rows.
func (pr *iproduct) pack(lo, hi int) {
	kern, k := pr.pb.kern, pr.pb.k
	per, rows := kern.perDword(), kern.rows
	for q := lo; q < hi; q++ {
		width := min(rows, pr.m-q*rows)
		panel := pr.packed[q*rows*pr.steps:][:width*pr.steps]
		i, whole := 0, k/4
		for ; kern.transpose4 != nil && whole > 0 && i+4 <= width; i += 4 {
			kern.transpose4((*float32)(unsafe.Pointer(&panel[i])), (*float32)(unsafe.Pointer(&pr.a[(q*rows+i)*pr.lda])), pr.lda, whole, width)
		}
		for r := range width {
			row := pr.a[(q*rows+r)*pr.lda:][:k]
			if pr.useZero {
				pr.rowSum[q*rows+r] = sumBytes(row)
			}
			from := 0
			if r < i {
				from = whole
			}
			for s := from; s < pr.steps; s++ {
				var word [4]byte
				copy(word[:per], row[s*per:])
				w := binary.LittleEndian.Uint32(word[:])
				if per == 2 {
					w = w&0xff | w<<8&0xff0000
				}
				panel[s*width+r] = w
			}
		}
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
	rows, cols := kern.rows, kern.cols
	panelsM := ceilDiv(pr.m, rows)
	blocks := ceilDiv(panelsM, pr.blockM)
	ws := getWorkspace[float32]()
	defer ws.put()
	ws.edge = grow(ws.edge, rows*cols)
	edge := unsafe.Pointer(&ws.edge[0])
	t := &ws.i
	for q := lo; q < hi; q++ {
		j, i0 := q/blocks*cols, q%blocks*pr.blockM
		t.k, t.b = pr.steps, at(unsafe.SliceData(pb.panels), j*pr.steps)
		t.colSum, t.colBy, t.by, t.zero, t.add = &pr.colSum[j], pr.colBy, pr.by, nil, nil
		if pr.useZero {
			t.zero = &pr.zero[j]
		}
		t.scale, t.bias, t.round = nil, nil, nil
		if len(pr.scale) > 0 {
			t.scale = &pr.scale[j]
		}
		if len(pr.add) > 0 {
			t.add = &pr.add[j]
		}
		if len(pr.bias) > 0 {
			t.bias = &pr.bias[j]
		}
		if pr.size == 1 {
			t.round = &pr.round
		}
		width := min(cols, pb.n-j)
		for i := i0; i < min(i0+pr.blockM, panelsM); i++ {
			r := min(rows, pr.m-i*rows)
			t.a, t.rowSum = at(unsafe.SliceData(pr.packed), i*rows*pr.steps), &pr.rowSum[i*rows]
			c := unsafe.Add(pr.c, i*rows*pr.ldc+j*pr.size)
			t.c, t.ldc, t.cols = c, pr.ldc, width
			if width == cols || kern.masked {
				kern.tile[r](t)
				continue
			}
			t.c, t.ldc, t.cols = edge, cols*pr.size, cols
			kern.tile[r](t)
			for s := range r {
				copy(unsafe.Slice((*byte)(unsafe.Add(c, s*pr.ldc)), width*pr.size), unsafe.Slice((*byte)(unsafe.Add(edge, s*cols*pr.size)), width*pr.size))
			}
		}
	}
}
