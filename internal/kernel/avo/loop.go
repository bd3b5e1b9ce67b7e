package main

import (
	"fmt"
	"strings"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func (v vec) ptr(param string) reg.GPVirtual {
	return v.Load(v.Param(param).Base(), v.GP64()).(reg.GPVirtual)
}

func (v vec) length(param string) reg.GPVirtual {
	return v.Load(v.Param(param).Len(), v.GP64()).(reg.GPVirtual)
}

// arg is an argument where it lies.
func (v vec) arg(name string) operand.Mem {
	b, err := v.Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return b.Addr
}

// param is an argument in all lanes.
func (v vec) param(name string) V {
	r := v.new()
	v.VBROADCASTSS(v.arg(name), r)
	return r
}

// A tail selects the first lanes of a vector.
type tail struct {
	v vec
	k reg.Register
}

// tailOf returns the tail with n lanes, 0 < n < lanes.
func (v vec) tailOf(n reg.GPVirtual) tail {
	if v.s.masked() {
		bits := v.GP64()
		v.MOVQ(operand.U32(1), bits)
		v.SHLXQ(n, bits, bits)
		v.DECQ(bits)
		k := v.K()
		v.KMOVW(bits.As32(), k)
		return tail{v, k}
	}
	// Eight ones and eight zeros: the window of which begins 8-n in.
	if !v.tailMask {
		v.tailMask = true
		v.StaticGlobal("tailMask")
		v.DataAttributes(attr.RODATA | attr.NOPTR)
		for i := range 16 {
			v.AddDatum(4*i, operand.U32(uint32(int32(i-8)>>31)))
		}
	}
	at := v.GP64()
	v.LEAQ(operand.NewDataAddr(operand.NewStaticSymbol("tailMask"), 32), at)
	off := v.GP64()
	v.MOVQ(n, off)
	v.SHLQ(operand.Imm(2), off)
	v.SUBQ(off, at)
	m := v.new()
	v.VMOVUPS(operand.Mem{Base: at}, m)
	return tail{v, m}
}

// load gives zeros past the end.
func (t tail) load(m operand.Mem) V {
	r := t.v.new()
	if t.v.s.masked() {
		t.v.VMOVUPS_Z(m, t.k, r)
	} else {
		t.v.VMASKMOVPS(m, t.k, r)
	}
	return r
}

func (t tail) store(x V, m operand.Mem) {
	if t.v.s.masked() {
		t.v.VMOVUPS(x, t.k, m)
	} else {
		t.v.VMASKMOVPS(x, t.k, m)
	}
}

// keep is x with other in the lanes past the end.
func (t tail) keep(x V, other operand.Op) V { return t.v.sel(t.k, x, other) }

// loop writes a function that sets dst to body of the vectors in, elementwise; dst may be
// one of them.
func (v vec) loop(name, dst string, in, params []string, body func(in, p []V) V) {
	slices := in
	if dst != in[0] {
		slices = append([]string{dst}, in...)
	}
	sig := "(" + strings.Join(slices, ", ") + " []float32"
	if len(params) > 0 {
		sig += ", " + strings.Join(params, ", ") + " float32"
	}
	v.fn(name, sig+")", fmt.Sprintf("%s sets %s[i] for i < len(%s).", name, dst, in[0]))
	n := v.length(in[0])
	src := make([]reg.GPVirtual, len(in))
	for i, s := range in {
		src[i] = v.ptr(s)
	}
	out := src[0]
	if dst != in[0] {
		out = v.ptr(dst)
	}
	p := make([]V, len(params))
	for i, s := range params {
		p[i] = v.param(s)
	}
	v.each(n, append([]reg.GPVirtual{out}, src...), func(t *tail) {
		x := make([]V, len(in))
		for i := range in {
			x[i] = v.loadAt(src[i], t)
		}
		v.storeTo(body(x, p), operand.Mem{Base: out}, t)
	})
	v.VZEROUPPER()
	v.RET()
}

func (v vec) loadAt(p reg.GPVirtual, t *tail) V { return v.loadFrom(operand.Mem{Base: p}, t) }

func (v vec) loadFrom(m operand.Mem, t *tail) V {
	if t == nil {
		r := v.new()
		v.VMOVUPS(m, r)
		return r
	}
	return t.load(m)
}

func (v vec) storeTo(x V, m operand.Mem, t *tail) {
	if t == nil {
		v.VMOVUPS(x, m)
	} else {
		t.store(x, m)
	}
}

// each runs body on whole vectors and then, with a tail, on what is left of n. It moves the
// pointers.
func (v vec) each(n reg.GPVirtual, ptrs []reg.GPVirtual, body func(t *tail)) {
	v.SUBQ(operand.I32(v.lanes()), n)
	v.JL(operand.LabelRef("tail"))
	v.Label("loop")
	body(nil)
	moved := map[reg.GPVirtual]bool{}
	for _, p := range ptrs {
		if !moved[p] {
			v.ADDQ(operand.I32(v.s.bytes), p)
			moved[p] = true
		}
	}
	v.SUBQ(operand.I32(v.lanes()), n)
	v.JGE(operand.LabelRef("loop"))
	v.Label("tail")
	v.ADDQ(operand.I32(v.lanes()), n)
	v.JZ(operand.LabelRef("done"))
	t := v.tailOf(n)
	body(&t)
	v.Label("done")
}

// fold combines the lanes of x into the lowest.
func (v vec) fold(op func(...operand.Op), x V) reg.VecVirtual {
	y := x
	if v.s.masked() {
		h := v.YMM()
		v.VEXTRACTF32X8(operand.Imm(1), x, h)
		y = v.YMM()
		op(h, x.AsY(), y)
	}
	r, h := v.XMM(), v.XMM()
	v.VEXTRACTF128(operand.Imm(1), y.AsY(), h)
	op(h, y.AsX(), r)
	v.VPERMILPS(operand.Imm(0x4e), r, h)
	op(h, r, r)
	v.VPERMILPS(operand.Imm(0xb1), r, h)
	op(h, r, r)
	return r
}

func (v vec) ret(x reg.VecVirtual) {
	v.VZEROUPPER()
	v.Store(x, v.ReturnIndex(0))
	v.RET()
}

var reductions = []struct {
	name  string
	write func(v vec, name string)
}{
	{"sum", func(v vec, name string) {
		v.sum(name, "(x []float32) float32", []string{"x"}, nil, func(acc V, in, _ []V, _ *tail) { v.VADDPS(in[0], acc, acc) })
	}},
	{"dot", func(v vec, name string) {
		v.sum(name, "(x, y []float32) float32", []string{"x", "y"}, nil, func(acc V, in, _ []V, _ *tail) { v.VFMADD231PS(in[1], in[0], acc) })
	}},
	{"squaredDeviations", func(v vec, name string) {
		v.sum(name, "(x []float32, mean float32) float32", []string{"x"}, []string{"mean"}, func(acc V, in, p []V, t *tail) {
			d := v.sub(in[0], p[0])
			if t != nil {
				d = t.keep(d, v.c(0))
			}
			v.VFMADD231PS(d, d, acc)
		})
	}},
	{"dotDeviations", func(v vec, name string) {
		v.sum(name, "(x, y []float32, mean float32) float32", []string{"x", "y"}, []string{"mean"}, func(acc V, in, p []V, t *tail) {
			d := v.sub(in[1], p[0])
			if t != nil {
				d = t.keep(d, v.c(0))
			}
			v.VFMADD231PS(d, in[0], acc)
		})
	}},
	{"maxReduce", func(v vec, name string) { v.extreme(name, v.VMAXPS, negInf) }},
	{"minReduce", func(v vec, name string) { v.extreme(name, v.VMINPS, posInf) }},
	{"expSum", vec.expSum},
	{"dot4", vec.dot4},
	{"lstmCellGrad", vec.lstmCellGrad},
	{"gruCellGrad", vec.gruCellGrad},
	{"adam", vec.adam},
	{"normalizedSums", vec.normalizedSums},
}

// sum writes a sum over vectors, in four sets of lanes.
func (v vec) sum(name, sig string, in, params []string, step func(acc V, in, p []V, t *tail)) {
	v.fn(name, sig, name+" sums over its vectors.")
	n := v.length(in[0])
	src := make([]reg.GPVirtual, len(in))
	for i, s := range in {
		src[i] = v.ptr(s)
	}
	p := make([]V, len(params))
	for i, s := range params {
		p[i] = v.param(s)
	}
	var acc [4]V
	for i := range acc {
		acc[i] = v.load(v.c(0))
	}
	loads := func(q int) []V {
		x := make([]V, len(in))
		for i := range in {
			x[i] = v.load(operand.Mem{Base: src[i], Disp: q * v.s.bytes})
		}
		return x
	}
	v.SUBQ(operand.I32(4*v.lanes()), n)
	v.JL(operand.LabelRef("few"))
	v.Label("four")
	for q := range acc {
		step(acc[q], loads(q), p, nil)
	}
	for _, s := range src {
		v.ADDQ(operand.I32(4*v.s.bytes), s)
	}
	v.SUBQ(operand.I32(4*v.lanes()), n)
	v.JGE(operand.LabelRef("four"))
	v.Label("few")
	v.ADDQ(operand.I32(4*v.lanes()), n)
	v.each(n, src, func(t *tail) {
		x := make([]V, len(in))
		for i := range in {
			x[i] = v.loadAt(src[i], t)
		}
		step(acc[0], x, p, t)
	})
	v.VADDPS(acc[1], acc[0], acc[0])
	v.VADDPS(acc[3], acc[2], acc[2])
	v.VADDPS(acc[2], acc[0], acc[0])
	v.ret(v.fold(v.VADDPS, acc[0]))
}

// extreme writes a maximum or minimum; from is its value for no elements. NaNs are kept
// apart, since op forgets them.
func (v vec) extreme(name string, op func(...operand.Op), from uint32) {
	v.fn(name, "(x []float32) float32", name+" is NaN if any element is.")
	n, x := v.length("x"), v.ptr("x")
	acc, nans := v.load(v.bits(from)), v.load(v.c(0))
	v.each(n, []reg.GPVirtual{x}, func(t *tail) {
		y := v.loadAt(x, t)
		if t != nil {
			y = t.keep(y, v.bits(from))
		}
		op(y, acc, acc)
		bad := v.sel(v.cmp(y, unordered, y), y, v.c(0))
		v.VORPS(bad, nans, nans)
	})
	// Lanes of nans are 0 or NaN, which adding them up keeps.
	out := v.XMM()
	v.VADDPS(v.fold(v.VADDPS, nans), v.fold(op, acc), out)
	v.ret(out)
}

// expSum writes the numerators of softmax and their sum.
func (v vec) expSum(name string) {
	v.fn(name, "(dst, x []float32, shift float32) float32", name+" sets dst[i] = e^(x[i]-shift) and returns their sum.")
	n, dst, x, shift := v.length("x"), v.ptr("dst"), v.ptr("x"), v.param("shift")
	acc := v.load(v.c(0))
	v.each(n, []reg.GPVirtual{dst, x}, func(t *tail) {
		e := v.exp(v.sub(v.loadAt(x, t), shift))
		if t == nil {
			v.VMOVUPS(e, operand.Mem{Base: dst})
		} else {
			t.store(e, operand.Mem{Base: dst})
			e = t.keep(e, v.c(0))
		}
		v.VADDPS(e, acc, acc)
	})
	v.ret(v.fold(v.VADDPS, acc))
}

// dot4 writes the inner loop of products in which rows meet rows.
func (v vec) dot4(name string) {
	v.fn(name, "(dst, x, y *float32, ldy, n int)", name+" sets dst[i] = Σ_p x[p]·y[i][p] for i < 4, p < n, where row i of y is ldy bytes from the one before.")
	dst, x, y, ldy, n := v.gp("dst"), v.gp("x"), v.gp("y"), v.gp("ldy"), v.gp("n")
	ldy3 := v.GP64()
	v.LEAQ(operand.Mem{Base: ldy, Index: ldy, Scale: 2}, ldy3)
	row := func(i, disp int) operand.Mem {
		m := operand.Mem{Base: y, Disp: disp}
		switch i {
		case 1, 2:
			m = m.Idx(ldy, uint8(i))
		case 3:
			m = m.Idx(ldy3, 1)
		}
		return m
	}
	var acc [2][4]V
	for s := range acc {
		for i := range acc[s] {
			acc[s][i] = v.load(v.c(0))
		}
	}
	v.SUBQ(operand.I32(2*v.lanes()), n)
	v.JL(operand.LabelRef("few"))
	v.Label("two")
	for s := range acc {
		a := v.load(operand.Mem{Base: x, Disp: s * v.s.bytes})
		for i := range acc[s] {
			v.VFMADD231PS(row(i, s*v.s.bytes), a, acc[s][i])
		}
	}
	v.ADDQ(operand.I32(2*v.s.bytes), x)
	v.ADDQ(operand.I32(2*v.s.bytes), y)
	v.SUBQ(operand.I32(2*v.lanes()), n)
	v.JGE(operand.LabelRef("two"))
	v.Label("few")
	v.ADDQ(operand.I32(2*v.lanes()), n)
	v.each(n, []reg.GPVirtual{x, y}, func(t *tail) {
		a := v.loadAt(x, t)
		for i := range 4 {
			b := v.new()
			switch {
			case t == nil:
				v.VMOVUPS(row(i, 0), b)
			default:
				b = t.load(row(i, 0))
			}
			v.VFMADD231PS(b, a, acc[0][i])
		}
	})
	for i := range 4 {
		v.VADDPS(acc[1][i], acc[0][i], acc[0][i])
		v.VMOVSS(v.fold(v.VADDPS, acc[0][i]), operand.Mem{Base: dst, Disp: 4 * i})
	}
	v.VZEROUPPER()
	v.RET()
}

// lstmCellGrad writes the gradient of a cell for one row, all gates of an element at once.
func (v vec) lstmCellGrad(name string) {
	v.fn(name, "(h int, gates, c, cNext, dh, dc, dGates *float32)", name+" is LSTMCellGrad.")
	gates, c, cNext, dh, dc, dGates := v.gp("gates"), v.gp("c"), v.gp("cNext"), v.gp("dh"), v.gp("dc"), v.gp("dGates")
	n, row := v.gates("h")
	v.each(n, []reg.GPVirtual{gates, c, cNext, dh, dc, dGates}, func(t *tail) {
		one := v.load(v.c(1))
		get := func(p reg.GPVirtual) V { return v.loadAt(p, t) }
		i, o, f, g := v.loadFrom(row(gates, 0), t), v.loadFrom(row(gates, 1), t), v.loadFrom(row(gates, 2), t), v.loadFrom(row(gates, 3), t)
		d, th := get(dh), v.tanh(get(cNext))
		slope := func(x V) V { return v.mul(x, v.sub(one, x)) } // of a sigmoid
		hump := func(x V) V { return v.fnma(x, x, one) }        // of tanh
		e := v.fma(v.mul(d, o), hump(th), get(dc))
		do := v.mul(v.mul(d, th), slope(o))
		di := v.mul(v.mul(e, g), slope(i))
		df := v.mul(v.mul(e, get(c)), slope(f))
		dg := v.mul(v.mul(e, i), hump(g))
		v.storeTo(di, row(dGates, 0), t)
		v.storeTo(do, row(dGates, 1), t)
		v.storeTo(df, row(dGates, 2), t)
		v.storeTo(dg, row(dGates, 3), t)
		v.storeTo(v.mul(e, f), operand.Mem{Base: dc}, t)
	})
	v.VZEROUPPER()
	v.RET()
}

// gruCellGrad likewise.
func (v vec) gruCellGrad(name string) {
	v.fn(name, "(h int, gates, rec, prev, dh, dGates, dRec, dPrev *float32)", name+" is GRUCellGrad.")
	gates, rec, prev, dh, dGates, dRec, dPrev := v.gp("gates"), v.gp("rec"), v.gp("prev"), v.gp("dh"), v.gp("dGates"), v.gp("dRec"), v.gp("dPrev")
	n, row := v.gates("h")
	v.each(n, []reg.GPVirtual{gates, rec, prev, dh, dGates, dRec, dPrev}, func(t *tail) {
		one := v.load(v.c(1))
		get := func(p reg.GPVirtual) V { return v.loadAt(p, t) }
		z, r, h := v.loadFrom(row(gates, 0), t), v.loadFrom(row(gates, 1), t), v.loadFrom(row(gates, 2), t)
		d := get(dh)
		rest := v.sub(one, z)
		a := v.mul(v.mul(d, rest), v.fnma(h, h, one))
		dz := v.mul(v.mul(d, v.sub(get(prev), h)), v.mul(z, rest))
		dr := v.mul(v.mul(a, get(rec)), v.mul(r, v.sub(one, r)))
		v.storeTo(dz, row(dGates, 0), t)
		v.storeTo(dr, row(dGates, 1), t)
		v.storeTo(a, row(dGates, 2), t)
		v.storeTo(v.mul(a, r), operand.Mem{Base: dRec}, t)
		v.storeTo(v.mul(d, z), operand.Mem{Base: dPrev}, t)
	})
	v.VZEROUPPER()
	v.RET()
}

// gates is a cell's size, and where a row has the element at hand of its gates, which are that far apart.
func (v vec) gates(size string) (n reg.GPVirtual, row func(base reg.GPVirtual, gate int) operand.Mem) {
	n = v.gp(size)
	one, three := v.GP64(), v.GP64()
	v.MOVQ(n, one)
	v.SHLQ(operand.Imm(2), one)
	v.LEAQ(operand.Mem{Base: one, Index: one, Scale: 2}, three)
	return n, func(base reg.GPVirtual, gate int) operand.Mem {
		m := operand.Mem{Base: base}
		switch gate {
		case 1, 2:
			m = m.Idx(one, uint8(gate))
		case 3:
			m = m.Idx(three, 1)
		}
		return m
	}
}

// adam writes the whole update of a parameter, so that each of its vectors passes through the cache once.
func (v vec) adam(name string) {
	v.fn(name, "(w, g, m, s []float32, beta1, rest1, beta2, rest2, keep, step, root, eps float32)", name+" is Adam.")
	n, w, g, m, s := v.length("w"), v.ptr("w"), v.ptr("g"), v.ptr("m"), v.ptr("s")
	beta1, rest1, beta2, rest2 := v.param("beta1"), v.param("rest1"), v.param("beta2"), v.param("rest2")
	keep, step, root, eps := v.param("keep"), v.param("step"), v.param("root"), v.param("eps")
	v.each(n, []reg.GPVirtual{w, g, m, s}, func(t *tail) {
		d := v.loadAt(g, t)
		first := v.fma(d, rest1, v.mul(v.loadAt(m, t), beta1))
		v.storeTo(first, operand.Mem{Base: m}, t)
		second := v.fma(v.mul(d, rest2), d, v.mul(v.loadAt(s, t), beta2))
		v.storeTo(second, operand.Mem{Base: s}, t)
		den := v.new()
		v.VSQRTPS(second, den)
		den = v.add(v.div(den, root), eps)
		v.storeTo(v.sub(v.mul(v.loadAt(w, t), keep), v.div(v.mul(first, step), den)), operand.Mem{Base: w}, t)
	})
	v.VZEROUPPER()
	v.RET()
}

// normalizedSums writes what the gradients of a normalization's scale and bias get of a row, and the sums that its own gradient hangs on.
func (v vec) normalizedSums(name string) {
	v.fn(name, "(dscale, dbias, dy, x, scale []float32, mean, inv float32, sums *float32)", name+" is NormalizedSums; the sums are two.")
	n, dscale, dbias, dy, x, scale := v.length("dy"), v.ptr("dscale"), v.ptr("dbias"), v.ptr("dy"), v.ptr("x"), v.ptr("scale")
	mean, inv, sums := v.param("mean"), v.param("inv"), v.gp("sums")
	dot, sum := v.load(v.c(0)), v.load(v.c(0))
	v.each(n, []reg.GPVirtual{dscale, dbias, dy, x, scale}, func(t *tail) {
		d := v.loadAt(dy, t) // 0 past the end
		normal := v.mul(v.sub(v.loadAt(x, t), mean), inv)
		v.storeTo(v.fma(d, normal, v.loadAt(dscale, t)), operand.Mem{Base: dscale}, t)
		v.storeTo(v.add(d, v.loadAt(dbias, t)), operand.Mem{Base: dbias}, t)
		d = v.mul(d, v.loadAt(scale, t))
		v.VFMADD231PS(normal, d, dot)
		v.VADDPS(d, sum, sum)
	})
	v.VMOVSS(v.fold(v.VADDPS, dot), operand.Mem{Base: sums})
	v.VMOVSS(v.fold(v.VADDPS, sum), operand.Mem{Base: sums, Disp: 4})
	v.VZEROUPPER()
	v.RET()
}
