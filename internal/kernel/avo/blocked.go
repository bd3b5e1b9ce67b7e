package main

import (
	"fmt"
	"strings"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Offsets in kernel.blockTile, which a test there holds to.
const (
	blockSrc, blockDst, blockWeights             = 0, 8, 16
	blockTaps, blockBias, blockResidual          = 24, 32, 40
	blockN                                       = 48
	blockPixel, blockStride, blockWeightStride   = 56, 64, 72
	blockClamp, blockLo, blockHi, blockSrcStride = 80, 88, 92, 96
	blockScratch                                 = 104
	blockAhead                                   = 112
	blockRows, blockSrcRow, blockDstRow          = 120, 128, 136
	blockSrcAt, blockDstAt, blockOutside         = 144, 152, 160
	clampBelow, clampAbove                       = 1, 2     // bits of clamp
	edgeLeft, edgeRight                          = 1, 2     // bits of chans, of planes
	tapOffset, tapChans, tapSize                 = 0, 8, 16 // in kernel.blockTap
	numBlockWidths                               = 3        // tiles of 1, 2 and 4 blocks
)

// blockPixels is how many outputs a tile of that many blocks has at most: what the registers hold.
func (s isa) blockPixels(blocks int) int {
	if s.masked() {
		return map[int]int{1: 14, 2: 14, 4: 6}[blocks]
	}
	return map[int]int{1: 12, 2: 6, 4: 2}[blocks]
}

// blocked writes the kernels of images whose channels lie in blocks of a register.
func blocked(u *unit) {
	for _, s := range []isa{avx512, avx2} {
		v := vec{u, s}
		table := &strings.Builder{}
		family := func(name, doc string, blocks int, write func(pixels int)) string {
			names := []string{"nil"}
			for p := 1; p <= s.blockPixels(blocks); p++ {
				fn := fmt.Sprintf("%s%dx%d%s", name, p, blocks, s.name)
				v.fn(fn, "(t *blockTile)", fmt.Sprintf("%s %s %d outputs and %d blocks.", fn, doc, p, blocks))
				write(p)
				names = append(names, fn)
			}
			return "{" + strings.Join(names, ", ") + "}"
		}
		fmt.Fprintf(table, "\nvar block%s = blockKernels{\n\tproduct: [numBlockWidths][]func(t *blockTile){\n", s.name)
		for i := range numBlockWidths {
			blocks := 1 << i
			fmt.Fprintf(table, "\t\t%s,\n", family("blockProduct", "is the tile of a convolution of", blocks, func(p int) { v.blockProduct(p, blocks) }))
		}
		fmt.Fprintf(table, "\t},\n\tdepthwise: []func(t *blockTile)%s,\n", family("blockDepthwise", "is the tile of a depthwise convolution of", 1, v.blockDepthwise))
		fmt.Fprintf(table, "\tmaximum: []func(t *blockTile)%s,\n", family("blockMaximum", "is the tile of a pooling of", 1, v.blockMaximum))
		v.blockSum()
		v.blockWinogradInput()
		v.blockWinogradOutput()
		fmt.Fprintf(table, "\tsum: blockSum%s,\n\twinogradInput: blockWinogradInput%s,\n\twinogradOutput: blockWinogradOutput%s,\n", s.name, s.name, s.name)
		u.decls.WriteString(table.String() + "}\n")
	}
}

// A blockUnit is a tile function under way.
type blockUnit struct {
	vec
	t     reg.GPVirtual
	pixel reg.GPVirtual // bytes from the input of one output to that of the next
	bases []reg.GPVirtual
	n     int // outputs

	first, last reg.GPVirtual // where the inputs of those outputs lie, of tiles that may be at an edge
	edges       bool
	rows        bool // the tile goes over several
}

// blockUnit begins a tile function of rows that lie as many bytes apart as the field at pixel says.
func (v vec) blockUnit(pixels, pixel int) *blockUnit {
	b := &blockUnit{vec: v, t: v.gp("t"), n: pixels}
	b.pixel = b.field(pixel)
	for range (pixels + 2) / 3 {
		b.bases = append(b.bases, v.GP64())
	}
	return b
}

func (b *blockUnit) at(off int) operand.Mem { return operand.Mem{Base: b.t, Disp: off} }

func (b *blockUnit) field(off int) reg.GPVirtual {
	r := b.GP64()
	b.MOVQ(b.at(off), r)
	return r
}

// seek points the bases at the inputs of the tap at taps.
func (b *blockUnit) seek(src, taps reg.GPVirtual) {
	b.MOVQ(operand.Mem{Base: taps, Disp: tapOffset}, b.bases[0])
	b.ADDQ(src, b.bases[0])
	for i := 1; i < len(b.bases); i++ {
		b.LEAQ(operand.Mem{Base: b.bases[i-1], Index: b.pixel, Scale: 2}, b.bases[i])
		b.ADDQ(b.pixel, b.bases[i])
	}
}

// seekEdges has the first and the last output read from outside the image where the tap at taps says so.
func (b *blockUnit) seekEdges(taps reg.GPVirtual) {
	b.edges = false
	f := b.GP64()
	b.MOVQ(operand.Mem{Base: taps, Disp: tapChans}, f)
	b.first = b.GP64()
	b.LEAQ(b.input(0, 0), b.first)
	if b.n > 1 {
		b.last = b.GP64()
		b.LEAQ(b.input(b.n-1, 0), b.last)
		b.TESTQ(operand.U32(edgeLeft), f)
		b.CMOVQNE(b.at(blockOutside), b.first)
		b.TESTQ(operand.U32(edgeRight), f)
		b.CMOVQNE(b.at(blockOutside), b.last)
	} else {
		b.TESTQ(f, f)
		b.CMOVQNE(b.at(blockOutside), b.first)
	}
	b.edges = true
}

// input is where the input of output i lies.
func (b *blockUnit) input(i, disp int) operand.Mem {
	if b.edges && i == 0 {
		return operand.Mem{Base: b.first, Disp: disp}
	}
	if b.edges && i == b.n-1 {
		return operand.Mem{Base: b.last, Disp: disp}
	}
	m := operand.Mem{Base: b.bases[i/3], Disp: disp}
	if i%3 != 0 {
		m = m.Idx(b.pixel, uint8(i%3))
	}
	return m
}

// overTaps runs body for each tap; the arguments say where the tile has its source, the taps and their number, and how large a tap is.
func (b *blockUnit) overTaps(source, list, number, size int, body func(tap reg.GPVirtual)) {
	src, tap, n := b.field(source), b.field(list), b.field(number)
	if b.rows {
		b.ADDQ(b.at(blockSrcAt), src)
	}
	b.TESTQ(n, n)
	b.JZ(operand.LabelRef("noTaps"))
	b.Label("tap")
	b.seek(src, tap)
	body(tap)
	b.ADDQ(operand.Imm(uint64(size)), tap)
	b.DECQ(n)
	b.JNZ(operand.LabelRef("tap"))
	b.Label("noTaps")
}

// blocks calls body for each block of the matrix at off, whose blocks lie blockStride apart; p is clobbered.
func (b *blockUnit) blocks(p reg.GPVirtual, blocks int, body func(k int, m func(i int) operand.Mem)) {
	for k := range blocks {
		body(k, func(i int) operand.Mem { return operand.Mem{Base: p, Disp: i * b.s.bytes} })
		if k < blocks-1 {
			b.ADDQ(b.at(blockStride), p)
		}
	}
}

// finish adds the residual, holds the sums within bounds where that is asked for, writes them and returns.
func (b *blockUnit) finish(sums [][]V) {
	b.write(sums, 0)
	b.VZEROUPPER()
	b.RET()
}

// nextRow writes sums as finish does, and goes to the label row if there is another one.
func (b *blockUnit) nextRow(sums []V) {
	b.write([][]V{sums}, blockDstAt)
	b.ADDQ(b.field(blockSrcRow), b.at(blockSrcAt))
	b.ADDQ(b.field(blockDstRow), b.at(blockDstAt))
	b.DECQ(b.at(blockRows))
	b.JG(operand.LabelRef("row"))
	b.VZEROUPPER()
	b.RET()
}

// write has dst and the residual as many bytes further on as the field at place says, if that is not 0.
func (b *blockUnit) write(sums [][]V, place int) {
	residual := b.field(blockResidual)
	b.TESTQ(residual, residual)
	b.JZ(operand.LabelRef("noResidual"))
	if place != 0 {
		b.ADDQ(b.at(place), residual)
	}
	b.blocks(residual, len(sums), func(k int, m func(i int) operand.Mem) {
		for i, x := range sums[k] {
			b.VADDPS(m(i), x, x)
		}
	})
	b.Label("noResidual")
	clamp := b.field(blockClamp)
	for _, end := range []struct {
		bit, off int
		op       func(...operand.Op)
	}{{clampBelow, blockLo, b.VMAXPS}, {clampAbove, blockHi, b.VMINPS}} {
		free := fmt.Sprintf("free%d", end.bit)
		b.TESTQ(operand.U32(end.bit), clamp)
		b.JZ(operand.LabelRef(free))
		bound := b.new()
		b.VBROADCASTSS(b.at(end.off), bound)
		for k := range sums {
			for _, x := range sums[k] { // the second source is what a NaN comes from
				end.op(x, bound, x)
			}
		}
		b.Label(free)
	}
	dst := b.field(blockDst)
	if place != 0 {
		b.ADDQ(b.at(place), dst)
	}
	b.blocks(dst, len(sums), func(k int, m func(i int) operand.Mem) {
		for i, x := range sums[k] {
			b.VMOVUPS(x, m(i))
		}
	})
}

func (v vec) blockProduct(pixels, blocks int) {
	b := v.blockUnit(pixels, blockPixel)
	sums := make([][]V, blocks)
	for k := range sums {
		for range pixels {
			sums[k] = append(sums[k], v.new())
		}
	}
	bias := b.field(blockBias)
	v.TESTQ(bias, bias)
	v.JZ(operand.LabelRef("more"))
	for k := range sums {
		for i, x := range sums[k] {
			if i == 0 {
				v.VMOVUPS(operand.Mem{Base: bias, Disp: k * v.s.bytes}, x)
			} else {
				v.VMOVAPS(sums[k][0], x)
			}
		}
	}
	v.JMP(operand.LabelRef("begin"))
	v.Label("more")
	b.blocks(b.field(blockDst), blocks, func(k int, m func(i int) operand.Mem) {
		for i, x := range sums[k] {
			v.VMOVUPS(m(i), x)
		}
	})
	v.Label("begin")
	w, stride, ahead := b.field(blockWeights), b.field(blockWeightStride), b.field(blockAhead)
	stride3 := v.GP64()
	if blocks == 4 {
		v.LEAQ(operand.Mem{Base: stride, Index: stride, Scale: 2}, stride3)
	}
	weights := func(p reg.GPVirtual, k int) operand.Mem {
		m := operand.Mem{Base: p}
		switch k {
		case 1, 2:
			m = m.Idx(stride, uint8(k))
		case 3:
			m = m.Idx(stride3, 1)
		}
		return m
	}
	step := func(j int) {
		var wk []V
		for k := range blocks {
			wk = append(wk, v.load(weights(w, k).Offset(j*v.s.bytes)))
		}
		for i := range pixels {
			x := v.new()
			v.VBROADCASTSS(b.input(i, 4*j), x)
			for k := range blocks {
				v.VFMADD231PS(wk[k], x, sums[k][i])
			}
		}
	}
	advance := func(n int) {
		v.ADDQ(operand.I32(n*v.s.bytes), w)
		for _, r := range b.bases {
			v.ADDQ(operand.Imm(uint64(4*n)), r)
		}
	}
	b.overTaps(blockSrc, blockTaps, blockN, tapSize, func(tap reg.GPVirtual) {
		c := v.GP64()
		v.MOVQ(operand.Mem{Base: tap, Disp: tapChans}, c)
		v.SUBQ(operand.Imm(unroll), c)
		v.JL(operand.LabelRef("few"))
		v.Label("four")
		for j := range unroll {
			step(j)
			if j%2 == 1 { // half as fast as the weights are read
				for k := range blocks {
					v.PREFETCHT1(weights(ahead, k).Offset(j / 2 * v.s.bytes))
				}
			}
		}
		v.ADDQ(operand.I32(unroll/2*v.s.bytes), ahead)
		advance(unroll)
		v.SUBQ(operand.Imm(unroll), c)
		v.JGE(operand.LabelRef("four"))
		v.Label("few")
		v.ADDQ(operand.Imm(unroll), c)
		v.JZ(operand.LabelRef("tapEnd"))
		v.Label("one")
		step(0)
		advance(1)
		v.DECQ(c)
		v.JNZ(operand.LabelRef("one"))
		v.Label("tapEnd")
	})
	b.finish(sums)
}

func (v vec) blockDepthwise(pixels int) {
	b := v.blockUnit(pixels, blockPixel)
	b.rows = true
	v.Label("row")
	sums := make([]V, pixels)
	bias, w := b.field(blockBias), b.field(blockWeights)
	for i := range sums {
		sums[i] = v.load(operand.Mem{Base: bias})
	}
	b.overTaps(blockSrc, blockTaps, blockN, tapSize, func(tap reg.GPVirtual) {
		b.seekEdges(tap)
		x := v.load(operand.Mem{Base: w})
		v.ADDQ(operand.I32(v.s.bytes), w)
		for i, sum := range sums {
			v.VFMADD231PS(b.input(i, 0), x, sum)
		}
	})
	b.nextRow(sums)
}

// blockMaximum is NaN where any element is.
func (v vec) blockMaximum(pixels int) {
	b := v.blockUnit(pixels, blockPixel)
	b.rows = true
	v.Label("row")
	top := make([]V, pixels)
	for i := range top {
		top[i] = v.load(v.bits(negInf))
	}
	b.overTaps(blockSrc, blockTaps, blockN, tapSize, func(tap reg.GPVirtual) {
		b.seekEdges(tap)
		for i, most := range top {
			x := v.load(b.input(i, 0))
			y := v.new()
			v.VMAXPS(x, most, y) // x, if either is NaN
			v.VMOVAPS(v.sel(v.cmp(most, unordered, most), most, y), most)
		}
	})
	b.nextRow(top)
}

func (v vec) blockSum() {
	v.fn("blockSum"+v.s.name, "(dst, src *float32, n int)", "blockSum"+v.s.name+" sets a register at dst to the sum of n at src.")
	dst, src, n := v.gp("dst"), v.gp("src"), v.gp("n")
	var acc [4]V
	for i := range acc {
		acc[i] = v.load(v.c(0))
	}
	v.SUBQ(operand.Imm(4), n)
	v.JL(operand.LabelRef("few"))
	v.Label("four")
	for i, x := range acc {
		v.VADDPS(operand.Mem{Base: src, Disp: i * v.s.bytes}, x, x)
	}
	v.ADDQ(operand.I32(4*v.s.bytes), src)
	v.SUBQ(operand.Imm(4), n)
	v.JGE(operand.LabelRef("four"))
	v.Label("few")
	v.ADDQ(operand.Imm(4), n)
	v.JZ(operand.LabelRef("done"))
	v.Label("one")
	v.VADDPS(operand.Mem{Base: src}, acc[0], acc[0])
	v.ADDQ(operand.I32(v.s.bytes), src)
	v.DECQ(n)
	v.JNZ(operand.LabelRef("one"))
	v.Label("done")
	v.VADDPS(acc[1], acc[0], acc[0])
	v.VADDPS(acc[3], acc[2], acc[2])
	v.VADDPS(acc[2], acc[0], acc[0])
	v.VMOVUPS(acc[0], operand.Mem{Base: dst})
	v.VZEROUPPER()
	v.RET()
}

// inputRow is Bᵀ·d.
func (v vec) inputRow(d [6]V) [6]V {
	two, four, five := v.c(2), v.c(4), v.c(5)
	d42, d31 := v.sub(d[4], d[2]), v.sub(d[3], d[1])
	return [6]V{
		v.fma(d[0], four, v.fnma(d[2], five, d[4])),
		v.fnma(v.add(d[1], d[2]), four, v.add(d[3], d[4])),
		v.fma(v.sub(d[1], d[2]), four, v.sub(d[4], d[3])),
		v.fma(d31, two, d42),
		v.fnma(d31, two, d42),
		v.fma(d[1], four, v.fnma(d[3], five, d[5])),
	}
}

// outputRow is Aᵀ·m.
func (v vec) outputRow(m [6]V) [4]V {
	s12, d12, s34, d34 := v.add(m[1], m[2]), v.sub(m[1], m[2]), v.add(m[3], m[4]), v.sub(m[3], m[4])
	return [4]V{
		v.add(m[0], v.add(s12, s34)),
		v.fma(d34, v.c(2), d12),
		v.fma(s34, v.c(4), s12),
		v.add(m[5], v.fma(d34, v.c(8), d12)),
	}
}

func (v vec) blockWinogradInput() {
	v.fn("blockWinogradInput"+v.s.name, "(dst, src, scratch *float32, row, stride int)",
		"blockWinogradInput"+v.s.name+" transforms one tile of a block of channels: pixel (i, j) is the register at src + i·row + j registers,\nelement (i, j) of its transform that at dst + (6·i+j)·stride; row and stride are in bytes. scratch is 36 registers.")
	dst, src, scratch, row, stride := v.gp("dst"), v.gp("src"), v.gp("scratch"), v.gp("row"), v.gp("stride")
	for i := range 6 {
		var d [6]V
		for j := range d {
			d[j] = v.load(operand.Mem{Base: src, Disp: j * v.s.bytes})
		}
		v.ADDQ(row, src)
		for j, x := range v.inputRow(d) {
			v.VMOVUPS(x, operand.Mem{Base: scratch, Disp: (6*i + j) * v.s.bytes})
		}
	}
	stride6, at := v.GP64(), v.GP64()
	v.LEAQ(operand.Mem{Base: stride, Index: stride, Scale: 2}, stride6)
	v.SHLQ(operand.Imm(1), stride6)
	for j := range 6 {
		var d [6]V
		for i := range d {
			d[i] = v.load(operand.Mem{Base: scratch, Disp: (6*i + j) * v.s.bytes})
		}
		v.MOVQ(dst, at)
		v.ADDQ(stride, dst)
		for i, x := range v.inputRow(d) {
			v.VMOVUPS(x, operand.Mem{Base: at})
			if i < 5 {
				v.ADDQ(stride6, at)
			}
		}
	}
	v.VZEROUPPER()
	v.RET()
}

// blockWinogradOutput takes src, dst, the strides of both (blockSrcStride, and blockPixel for a row of dst), bias, residual and bounds from
// the tile; blockScratch is room for 24 registers.
func (v vec) blockWinogradOutput() {
	v.fn("blockWinogradOutput"+v.s.name, "(t *blockTile)",
		"blockWinogradOutput"+v.s.name+" transforms one tile of a block of channels back: element (i, j) is the register at src + (6·i+j)·srcStride,\npixel (i, j) that at dst + i·pixel + j registers, after bias, residual and bounds. scratch is 24 registers.")
	b := v.blockUnit(0, blockPixel)
	src, stride, scratch := b.field(blockSrc), b.field(blockSrcStride), b.field(blockScratch)
	for i := range 6 {
		var m [6]V
		for j := range m {
			m[j] = v.load(operand.Mem{Base: src})
			v.ADDQ(stride, src)
		}
		for j, x := range v.outputRow(m) {
			v.VMOVUPS(x, operand.Mem{Base: scratch, Disp: (4*i + j) * v.s.bytes})
		}
	}
	bias, dst, residual, clamp := b.field(blockBias), b.field(blockDst), b.field(blockResidual), b.field(blockClamp)
	lo, hi := v.new(), v.new()
	v.VBROADCASTSS(b.at(blockLo), lo)
	v.VBROADCASTSS(b.at(blockHi), hi)
	for j := range 4 {
		var m [6]V
		for i := range m {
			m[i] = v.load(operand.Mem{Base: scratch, Disp: (4*i + j) * v.s.bytes})
		}
		out := v.outputRow(m)
		for _, x := range out {
			v.VADDPS(operand.Mem{Base: bias}, x, x)
		}
		off := v.GP64()
		no := fmt.Sprintf("noResidual%d", j)
		v.TESTQ(residual, residual)
		v.JZ(operand.LabelRef(no))
		v.MOVQ(residual, off)
		for i, x := range out {
			v.VADDPS(operand.Mem{Base: off, Disp: j * v.s.bytes}, x, x)
			if i < 3 {
				v.ADDQ(b.pixel, off)
			}
		}
		v.Label(no)
		no = fmt.Sprintf("noClamp%d", j)
		v.TESTQ(clamp, clamp)
		v.JZ(operand.LabelRef(no))
		for _, x := range out {
			v.VMAXPS(x, lo, x)
			v.VMINPS(x, hi, x)
		}
		v.Label(no)
		v.MOVQ(dst, off)
		for i, x := range out {
			v.VMOVUPS(x, operand.Mem{Base: off, Disp: j * v.s.bytes})
			if i < 3 {
				v.ADDQ(b.pixel, off)
			}
		}
	}
	v.VZEROUPPER()
	v.RET()
}
