package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// elem is an element type and its instructions.
type elem struct {
	name                                      string // of the Go type
	prefix                                    string // of BLAS
	size                                      int
	fma, bcast, mov, add, mul, min, max, zero func(u *unit, ops ...operand.Op)
}

var f32 = elem{
	name: "float32", prefix: "s", size: 4,
	fma:   func(u *unit, ops ...operand.Op) { u.VFMADD231PS(ops...) },
	bcast: func(u *unit, ops ...operand.Op) { u.VBROADCASTSS(ops...) },
	mov:   func(u *unit, ops ...operand.Op) { u.VMOVUPS(ops...) },
	add:   func(u *unit, ops ...operand.Op) { u.VADDPS(ops...) },
	mul:   func(u *unit, ops ...operand.Op) { u.VMULPS(ops...) },
	min:   func(u *unit, ops ...operand.Op) { u.VMINPS(ops...) },
	max:   func(u *unit, ops ...operand.Op) { u.VMAXPS(ops...) },
	zero:  func(u *unit, ops ...operand.Op) { u.VXORPS(ops[0], ops[0], ops[0]) },
}

var f64 = elem{
	name: "float64", prefix: "d", size: 8,
	fma:   func(u *unit, ops ...operand.Op) { u.VFMADD231PD(ops...) },
	bcast: func(u *unit, ops ...operand.Op) { u.VBROADCASTSD(ops...) },
	mov:   func(u *unit, ops ...operand.Op) { u.VMOVUPD(ops...) },
	add:   func(u *unit, ops ...operand.Op) { u.VADDPD(ops...) },
	mul:   func(u *unit, ops ...operand.Op) { u.VMULPD(ops...) },
	min:   func(u *unit, ops ...operand.Op) { u.VMINPD(ops...) },
	max:   func(u *unit, ops ...operand.Op) { u.VMAXPD(ops...) },
	zero:  func(u *unit, ops ...operand.Op) { u.VXORPD(ops[0], ops[0], ops[0]) },
}

// isa is a register width.
type isa struct {
	name  string
	bytes int
	rows  int // of the largest tile that fits the registers with 2 vectors a row
}

var (
	avx2   = isa{"AVX2", 32, 6}
	avx512 = isa{"AVX512", 64, 12}
)

func (s isa) masked() bool { return s.bytes == 64 }

func (u *unit) vec(s isa) reg.VecVirtual {
	if s.bytes == 64 {
		return u.ZMM()
	}
	return u.YMM()
}

// Offsets in kernel.tile, which a test there holds to; those past params are in
// units of the element.
const (
	tileA, tileB, tileC                 = 0, 8, 16
	tileRowBias, tileColBias, tileResid = 24, 32, 40
	tileK, tileLDB, tileLDC, tileLDR    = 48, 56, 64, 72
	tileCols, tileClamp, tileLDA        = 80, 88, 96
	tileCount, tileOn                   = 104, 112 // on to the next one's a, b, c, rowBias, colBias and resid
	tileAhead, tileAheadBy              = 160, 168
	tileParams                          = 176
	tileAlpha, tileBeta, tileLo, tileHi = 0, 1, 2, 3
)

// gemm writes a tile function for every number of rows, for each instruction set
// and element type.
func gemm(u *unit) {
	for _, s := range []isa{avx512, avx2} {
		for _, t := range []elem{f32, f64} {
			u.tiles(t.prefix+"gemm", "tile["+t.name+"]", s, 2*s.bytes/t.size, func(rows int) { gemmTile(u, s, t, rows, false) })
		}
		u.tiles("sgemmRows", "tile[float32]", s, 2*s.bytes/4, func(rows int) { gemmTile(u, s, f32, rows, true) })
	}
}

// tiles writes the functions of all numbers of rows, and their table.
func (u *unit) tiles(prefix, typ string, s isa, cols int, write func(rows int)) {
	var names []string
	for rows := 1; rows <= s.rows; rows++ {
		name := fmt.Sprintf("%s%dx%d%s", prefix, rows, cols, s.name)
		u.fn(name, "(t *"+typ+")", fmt.Sprintf("%s is the kernel of a tile with %d rows and %d columns.", name, rows, cols))
		write(rows)
		names = append(names, name)
	}
	fmt.Fprintf(&u.decls, "\n// %sTiles%s is the tile functions by number of rows.\nvar %sTiles%s = []func(t *%s){nil, %s}\n",
		prefix, s.name, prefix, s.name, typ, strings.Join(names, ", "))
}

const (
	unroll = 4 // steps of k
	chunk  = 4 // times that, which are a line of a row of float32s
)

// gemmTile writes a run of tiles: each the product of a panel of A, rows wide, or of rows of A where they
// lie, and a panel of B, two vectors wide.
func gemmTile(u *unit, s isa, t elem, rows int, inRows bool) {
	tp := u.Load(u.Param("t"), u.GP64()).(reg.GPVirtual)
	field := func(off int) operand.Mem { return operand.Mem{Base: tp, Disp: off} }
	param := func(i int) operand.Mem { return field(tileParams + i*t.size) }
	load := func(off int) reg.GPVirtual {
		r := u.GP64()
		u.MOVQ(field(off), r)
		return r
	}

	// Columns past the edge of C are masked out where the processor has masks;
	// elsewhere the caller gives a whole tile.
	var mask [2]reg.Virtual
	if s.masked() {
		bits := u.GP64()
		u.MOVQ(operand.U32(1), bits)
		u.SHLXQ(load(tileCols), bits, bits)
		u.DECQ(bits)
		for v := range 2 {
			mask[v] = u.K()
			u.KMOVW(bits.As32(), mask[v])
			u.SHRQ(operand.Imm(uint64(s.bytes/t.size)), bits)
		}
	}
	u.Label("tile")
	a, b, k, ldb := load(tileA), load(tileB), load(tileK), load(tileLDB)

	// With few rows, several sets of sums hide the latency of the additions.
	sets := 1
	for sets < unroll && 2*rows*sets*2 <= 2*s.rows {
		sets *= 2
	}
	var acc [unroll][][2]reg.VecVirtual
	for z := range sets {
		acc[z] = make([][2]reg.VecVirtual, rows)
		for i := range rows {
			for v := range 2 {
				acc[z][i][v] = u.vec(s)
				t.zero(u, acc[z][i][v])
			}
		}
	}
	ldb3 := u.GP64()
	u.LEAQ(operand.Mem{Base: ldb, Index: ldb, Scale: 2}, ldb3)
	// The element of A for step j and row i, and the way on to the next n steps.
	ofA := func(j, i int) operand.Mem { return operand.Mem{Base: a, Disp: (j*rows + i) * t.size} }
	onA := func(n int) { u.ADDQ(operand.I32(n*rows*t.size), a) }
	askA := func() {}
	if inRows {
		// A pointer for every three rows reaches them all.
		lda, threes := load(tileLDA), []reg.GPVirtual{a}
		for i := 3; i < rows; i += 3 {
			p := u.GP64()
			u.LEAQ(operand.Mem{Base: threes[len(threes)-1], Index: lda, Scale: 2}, p)
			u.ADDQ(lda, p)
			threes = append(threes, p)
		}
		ofA = func(j, i int) operand.Mem {
			m := operand.Mem{Base: threes[i/3], Disp: j * t.size}
			if i%3 > 0 {
				m = m.Idx(lda, uint8(i%3))
			}
			return m
		}
		onA = func(n int) {
			for _, p := range threes {
				u.ADDQ(operand.I32(n*t.size), p)
			}
		}
		askA = func() {
			next := u.GP64()
			for i := range rows {
				if i%3 == 0 {
					u.MOVQ(field(tileOn), next)
					u.ADDQ(threes[i/3], next)
				}
				m := operand.Mem{Base: next}
				if i%3 > 0 {
					m = m.Idx(lda, uint8(i%3))
				}
				u.PREFETCHT1(m)
			}
		}
	}
	step := func(j int) {
		at := operand.Mem{Base: b}
		switch j {
		case 1, 2:
			at = at.Idx(ldb, uint8(j))
		case 3:
			at = at.Idx(ldb3, 1)
		}
		b0, b1 := u.vec(s), u.vec(s)
		t.mov(u, at, b0)
		t.mov(u, at.Offset(s.bytes), b1)
		for i := range rows {
			x := u.vec(s)
			t.bcast(u, ofA(j, i), x)
			sums := acc[j%sets][i]
			t.fma(u, b0, x, sums[0])
			t.fma(u, b1, x, sums[1])
		}
	}
	row := load(tileC)
	askC := func(n int) {
		for range n {
			u.PREFETCHT0(operand.Mem{Base: row})
			u.PREFETCHT0(operand.Mem{Base: row, Disp: 64})
			u.ADDQ(field(tileLDC), row)
		}
	}
	steps := func() {
		for j := range unroll {
			step(j)
		}
		onA(unroll)
		u.LEAQ(operand.Mem{Base: b, Index: ldb, Scale: unroll}, b)
		u.SUBQ(operand.Imm(unroll), k)
		u.CMPQ(k, operand.Imm(unroll))
	}
	u.CMPQ(k, operand.Imm(unroll))
	u.JL(operand.LabelRef("tail"))
	if sets > 1 {
		// Few rows wait for B alone, which the processor fetches best if nothing else is asked for.
		askC(rows)
		u.Label("loop")
		steps()
		u.JGE(operand.LabelRef("loop"))
	} else {
		// What is wanted later comes a little at each chunk of steps, since what the steps read must not wait behind it: rows of C, for the end
		// of the tile, and the next tile's rows of A; and what is ahead, in between.
		unasked, n, ahead := u.AllocLocal(8), u.GP64(), load(tileAhead)
		u.MOVQ(operand.U32(rows+rows%2), unasked)
		u.Label("chunk")
		u.SUBQ(operand.Imm(2), unasked)
		u.JL(operand.LabelRef("asked"))
		askC(2)
		u.Label("asked")
		askA()
		u.MOVQ(operand.U32(chunk), n)
		u.Label("loop")
		u.PREFETCHT1(operand.Mem{Base: ahead})
		u.PREFETCHT1(operand.Mem{Base: ahead, Disp: 64})
		u.ADDQ(field(tileAheadBy), ahead)
		steps()
		u.JL(operand.LabelRef("fetched"))
		u.DECQ(n)
		u.JNZ(operand.LabelRef("loop"))
		u.JMP(operand.LabelRef("chunk"))
		u.Label("fetched")
		u.MOVQ(ahead, field(tileAhead))
	}
	u.Label("tail")
	u.TESTQ(k, k)
	u.JZ(operand.LabelRef("sum"))
	u.Label("tailLoop")
	step(0)
	onA(1)
	u.ADDQ(ldb, b)
	u.DECQ(k)
	u.JNZ(operand.LabelRef("tailLoop"))
	u.Label("sum")
	for n := sets / 2; n > 0; n /= 2 {
		for z := range n {
			for i := range rows {
				for v := range 2 {
					t.add(u, acc[z+n][i][v], acc[z][i][v], acc[z][i][v])
				}
			}
		}
	}
	sums, c := acc[0], load(tileC)
	ldc := load(tileLDC)

	apply := func(op func(u *unit, ops ...operand.Op), v int, m operand.Mem, ops ...operand.Op) {
		all := []operand.Op{m.Offset(v * s.bytes), ops[0]}
		if s.masked() {
			all = append(all, mask[v])
		}
		op(u, append(all, ops[1:]...)...)
	}
	// skipIf writes body so that it is jumped over if cond jumps to its label.
	section := 0
	skipIf := func(cond func(label operand.Op), body func()) {
		section++
		label := fmt.Sprintf("skip%d", section)
		cond(operand.LabelRef(label))
		body()
		u.Label(label)
	}
	// skipIfNil does so where the pointer at off is nil.
	skipIfNil := func(off int, body func(p reg.GPVirtual)) {
		p := load(off)
		skipIf(func(label operand.Op) { u.TESTQ(p, p); u.JZ(label) }, func() { body(p) })
	}
	// eachRow walks down the rows of a matrix.
	eachRow := func(p, ld reg.GPVirtual, body func(i int, m operand.Mem)) {
		row := u.GP64()
		u.MOVQ(p, row)
		for i := range rows {
			body(i, operand.Mem{Base: row})
			if i < rows-1 {
				u.ADDQ(ld, row)
			}
		}
	}
	scalar := func(m operand.Mem) reg.VecVirtual {
		x := u.vec(s)
		t.bcast(u, m, x)
		return x
	}

	skipIf(func(label operand.Op) {
		one, bits := u.GP64(), u.GP64()
		if t.size == 4 {
			u.MOVL(param(tileAlpha), bits.As32())
			u.MOVL(operand.U32(math.Float32bits(1)), one.As32())
		} else {
			u.MOVQ(param(tileAlpha), bits)
			u.MOVQ(operand.U64(math.Float64bits(1)), one)
		}
		u.CMPQ(bits, one)
		u.JE(label)
	}, func() {
		alpha := scalar(param(tileAlpha))
		for i := range rows {
			for v := range 2 {
				t.mul(u, alpha, sums[i][v], sums[i][v])
			}
		}
	})
	skipIf(func(label operand.Op) {
		bits := u.GP64()
		if t.size == 4 {
			u.MOVL(param(tileBeta), bits.As32())
		} else {
			u.MOVQ(param(tileBeta), bits)
		}
		u.TESTQ(bits, bits)
		u.JZ(label)
	}, func() {
		beta := scalar(param(tileBeta))
		eachRow(c, ldc, func(i int, m operand.Mem) {
			for v := range 2 {
				apply(t.fma, v, m, beta, sums[i][v])
			}
		})
	})
	skipIfNil(tileRowBias, func(p reg.GPVirtual) {
		for i := range rows {
			x := scalar(operand.Mem{Base: p, Disp: i * t.size})
			for v := range 2 {
				t.add(u, x, sums[i][v], sums[i][v])
			}
		}
	})
	skipIfNil(tileColBias, func(p reg.GPVirtual) {
		for i := range rows {
			for v := range 2 {
				apply(t.add, v, operand.Mem{Base: p}, sums[i][v], sums[i][v])
			}
		}
	})
	skipIfNil(tileResid, func(p reg.GPVirtual) {
		eachRow(p, load(tileLDR), func(i int, m operand.Mem) {
			for v := range 2 {
				apply(t.add, v, m, sums[i][v], sums[i][v])
			}
		})
	})
	skipIfNil(tileClamp, func(reg.GPVirtual) {
		lo, hi := scalar(param(tileLo)), scalar(param(tileHi))
		for i := range rows {
			for v := range 2 { // the second source is what a NaN comes from
				t.max(u, sums[i][v], lo, sums[i][v])
				t.min(u, sums[i][v], hi, sums[i][v])
			}
		}
	})
	eachRow(c, ldc, func(i int, m operand.Mem) {
		for v := range 2 {
			ops := []operand.Op{sums[i][v]}
			if s.masked() {
				ops = append(ops, mask[v])
			}
			t.mov(u, append(ops, m.Offset(v*s.bytes))...)
		}
	})
	u.DECQ(field(tileCount))
	u.JLE(operand.LabelRef("done"))
	for i, off := range []int{tileA, tileB, tileC, tileRowBias, tileColBias, tileResid} {
		u.ADDQ(load(tileOn+8*i), field(off))
	}
	u.JMP(operand.LabelRef("tile"))
	u.Label("done")
	u.VZEROUPPER()
	u.RET()
}
