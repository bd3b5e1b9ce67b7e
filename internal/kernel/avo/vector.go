package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// vector writes the functions of vectors, and the tables by which package kernel
// finds them.
func vector(u *unit) {
	for _, s := range []isa{avx512, avx2} {
		v := vec{u, s}
		table := &strings.Builder{}
		fmt.Fprintf(table, "\nvar vector%s = vectorKernels{\n\tunary: [numUnary]func(dst, x []float32){\n", s.name)
		for _, f := range unaries {
			name := lower(f.name) + s.name
			v.loop(name, "dst", []string{"x"}, nil, func(in, _ []V) V { return f.body(v, in[0]) })
			fmt.Fprintf(table, "\t\top%s: %s,\n", f.name, name)
		}
		fmt.Fprintf(table, "\t},\n\tbinary: [numBinary]func(dst, x, y []float32){\n")
		for _, f := range binaries {
			name := lower(f.name) + s.name
			v.loop(name, "dst", []string{"x", "y"}, nil, func(in, _ []V) V { return f.body(v, in[0], in[1]) })
			fmt.Fprintf(table, "\t\top%s: %s,\n", f.name, name)
		}
		fmt.Fprintf(table, "\t},\n\tscalar: [numBinary]func(dst, x []float32, s float32){\n")
		for _, f := range binaries {
			name := "scalar" + f.name + s.name
			v.loop(name, "dst", []string{"x"}, []string{"s"}, func(in, p []V) V { return f.body(v, p[0], in[0]) })
			fmt.Fprintf(table, "\t\top%s: %s,\n", f.name, name)
		}
		fmt.Fprintf(table, "\t},\n")
		for _, f := range parametric {
			v.loop(f.name+s.name, f.dst, f.in, f.params, func(in, p []V) V { return f.body(v, in, p) })
			fmt.Fprintf(table, "\t%s: %s,\n", f.name, f.name+s.name)
		}
		for _, f := range reductions {
			f.write(v, f.name+s.name)
			fmt.Fprintf(table, "\t%s: %s,\n", f.name, f.name+s.name)
		}
		for _, f := range cells {
			f.write(v, f.name+s.name)
			fmt.Fprintf(table, "\t%s: %s,\n", f.name, f.name+s.name)
		}
		for _, f := range conversions {
			v.convert(f.name+s.name, f.dst, f.src, f.body)
			fmt.Fprintf(table, "\t%s: %s,\n", f.name, f.name+s.name)
		}
		for _, f := range ofBytes {
			f.write(v, f.name+s.name)
			fmt.Fprintf(table, "\t%s: %s,\n", f.name, f.name+s.name)
		}
		if s.masked() {
			v.mapBytes("mapBytes" + s.name)
			fmt.Fprintf(table, "\tmapBytes: mapBytes%s,\n", s.name)
		}
		fmt.Fprintf(table, "\tgather: gather%s,\n\ttaps: taps%s,\n\tdeinterleave: deinterleaveAVX2,\n", s.name, s.name)
		u.decls.WriteString(table.String() + "}\n")
	}
}

func lower(name string) string { return strings.ToLower(name[:1]) + name[1:] }

// V is a vector of float32s, or of the integers with their bits.
type V = reg.VecVirtual

// vec builds expressions of vectors: each method emits an instruction and returns a
// new register.
type vec struct {
	*unit
	s isa
}

func (v vec) lanes() int { return v.s.bytes / 4 }
func (v vec) new() V     { return v.vec(v.s) }

// c is a constant, in memory.
func (v vec) c(f float64) operand.Mem { return v.bits(math.Float32bits(float32(f))) }

// bits is a constant given by its bits.
func (v vec) bits(b uint32) operand.Mem {
	name, ok := v.consts[b]
	if !ok {
		name = fmt.Sprintf("const_%08x", b)
		v.consts[b] = name
		v.StaticGlobal(name)
		v.DataAttributes(attr.RODATA | attr.NOPTR)
		for i := range 16 {
			v.AddDatum(4*i, operand.U32(b))
		}
	}
	return operand.NewDataAddr(operand.NewStaticSymbol(name), 0)
}

// lowBytes is the shuffle that brings the lowest bytes of the lanes of each half to its front.
func (v vec) lowBytes() operand.Mem {
	const name = "lowBytes"
	if !v.shuffle {
		v.shuffle = true
		v.StaticGlobal(name)
		v.DataAttributes(attr.RODATA | attr.NOPTR)
		for i := range 2 {
			v.AddDatum(16*i, operand.U64(0x0c080400))
			v.AddDatum(16*i+8, operand.U64(0))
		}
	}
	return operand.NewDataAddr(operand.NewStaticSymbol(name), 0)
}

func (v vec) load(op operand.Op) V {
	if r, ok := op.(V); ok {
		return r
	}
	r := v.new()
	v.VMOVUPS(op, r)
	return r
}

func (v vec) op2(op func(...operand.Op), a, b operand.Op) V {
	r := v.new()
	op(b, v.load(a), r)
	return r
}

func (v vec) add(a, b operand.Op) V { return v.op2(v.VADDPS, a, b) }
func (v vec) sub(a, b operand.Op) V { return v.op2(v.VSUBPS, a, b) }
func (v vec) mul(a, b operand.Op) V { return v.op2(v.VMULPS, a, b) }
func (v vec) div(a, b operand.Op) V { return v.op2(v.VDIVPS, a, b) }
func (v vec) and(a, b operand.Op) V { return v.op2(v.VANDPS, a, b) }
func (v vec) or(a, b operand.Op) V  { return v.op2(v.VORPS, a, b) }
func (v vec) xor(a, b operand.Op) V { return v.op2(v.VXORPS, a, b) }

// min and max give b if either is NaN.
func (v vec) min(a, b operand.Op) V { return v.op2(v.VMINPS, a, b) }
func (v vec) max(a, b operand.Op) V { return v.op2(v.VMAXPS, a, b) }

// maxNaN and minNaN give NaN if either is NaN.
func (v vec) maxNaN(a, b operand.Op) V { return v.sel(v.cmp(a, unordered, a), a, v.max(a, b)) }
func (v vec) minNaN(a, b operand.Op) V { return v.sel(v.cmp(a, unordered, a), a, v.min(a, b)) }

// fma is a·b + z, fnma z - a·b.
func (v vec) fma(a, b, z operand.Op) V {
	r := v.new()
	v.VMOVUPS(z, r)
	v.VFMADD231PS(b, v.load(a), r)
	return r
}

func (v vec) fnma(a, b, z operand.Op) V {
	r := v.new()
	v.VMOVUPS(z, r)
	v.VFNMADD231PS(b, v.load(a), r)
	return r
}

// poly is c[0] + c[1]·x + …
func (v vec) poly(x V, c ...float64) V {
	r := v.new()
	v.VMOVUPS(v.c(c[len(c)-1]), r)
	for i := len(c) - 2; i >= 0; i-- {
		v.VFMADD213PS(v.c(c[i]), x, r)
	}
	return r
}

func (v vec) round(x V) V {
	r := v.new()
	if v.s.masked() {
		v.VRNDSCALEPS(operand.Imm(0), x, r)
	} else {
		v.VROUNDPS(operand.Imm(0), x, r)
	}
	return r
}

// Comparisons of cmp.
const (
	less      = 1
	unordered = 3
	lessEqual = 2
	equal     = 0
)

// A cond is the outcome of a comparison, lane by lane.
type cond reg.Register

func (v vec) cmp(a operand.Op, how uint64, b operand.Op) cond {
	if v.s.masked() {
		k := v.K()
		v.VCMPPS(operand.Imm(how), b, v.load(a), k)
		return k
	}
	r := v.new()
	v.VCMPPS(operand.Imm(how), b, v.load(a), r)
	return r
}

// sel is yes where c holds and no elsewhere.
func (v vec) sel(c cond, yes, no operand.Op) V {
	r := v.new()
	if v.s.masked() {
		v.VBLENDMPS(yes, v.load(no), c, r)
	} else {
		v.VBLENDVPS(c, yes, v.load(no), r)
	}
	return r
}

const (
	signBit = 0x80000000
	absBits = 0x7fffffff
	posInf  = 0x7f800000
	negInf  = 0xff800000
	quiet   = 0x7fc00000
)

func (v vec) abs(x V) V { return v.and(x, v.bits(absBits)) }

// expParts reduces x to n·ln 2 + r, |r| ≤ ln 2/2, and returns n and e^r-1, which has a relative
// error below 2^-24 before rounding.
func (v vec) expParts(x V) (n, em1 V) {
	n = v.round(v.mul(x, v.c(math.Log2E)))
	r := v.fnma(n, v.c(ln2Hi), x)
	r = v.fnma(n, v.c(ln2Lo), r)
	// (e^r-1-r)/r², minimax for the relative error of e^r-1.
	p := v.poly(r, 0.4999999701976776, 0.16666539013385773, 0.041667744517326355, 0.008367069996893406, 0.0013839072780683637)
	return n, v.fma(v.mul(r, r), p, r)
}

// ln 2 in two parts; the first is short, so that products with exponents are exact.
const (
	ln2Hi = 0.693359375
	ln2Lo = math.Ln2 - ln2Hi
)

// scale is p·2^n, p near 1, rounded once; n is an integer in [-151, 129].
func (v vec) scale(p, n V) V {
	if v.s.masked() {
		return v.op2(v.VSCALEFPS, p, n)
	}
	i, half, rest := v.new(), v.new(), v.new()
	v.VCVTPS2DQ(n, i)
	v.VPSRAD(operand.Imm(1), i, half)
	v.VPSUBD(half, i, rest)
	for _, e := range []V{half, rest} {
		v.VPADDD(v.bits(127), e, e)
		v.VPSLLD(operand.Imm(23), e, e)
	}
	return v.mul(v.mul(p, half), rest)
}

// exp: beyond the bounds e^x is 0 or infinite, within half an ulp.
func (v vec) exp(x V) V {
	x = v.min(v.c(89), x)
	return v.expNoOverflow(x)
}

func (v vec) expNoOverflow(x V) V {
	x = v.max(v.c(-104), x)
	n, em1 := v.expParts(x)
	return v.scale(v.add(em1, v.c(1)), n)
}

// logPoly is ln(1+f) + e·ln 2 for f in [-1/4, 1/2].
func (v vec) logPoly(f, e V) V {
	// (ln(1+f) - f + f²/2)/f³, minimax for the relative error of ln(1+f).
	q := v.poly(f, 0.33333340287208557, -0.2500016391277313, 0.19999605417251587, -0.16655297577381134, 0.14276240766048431,
		-0.12727773189544678, 0.11700636148452759, -0.0911615863442421, 0.03767279163002968)
	f2 := v.mul(f, f)
	low := v.mul(e, v.c(ln2Lo))
	y := v.fma(v.mul(f2, f), q, low)
	y = v.fnma(f2, v.c(0.5), y)
	return v.fma(e, v.c(ln2Hi), v.add(f, y))
}

func (v vec) log(x V) V {
	var m, e V
	if v.s.masked() {
		m = v.new()
		v.VGETMANTPS(operand.Imm(3), x, m) // in [3/4, 3/2)
		ex, em := v.new(), v.new()
		v.VGETEXPPS(x, ex)
		v.VGETEXPPS(m, em)
		e = v.sub(ex, em)
	} else {
		tiny := v.cmp(x, less, v.bits(0x00800000))
		y := v.sel(tiny, v.mul(x, v.c(1<<24)), x)
		bias := v.and(tiny.(V), v.c(24))
		i := v.new()
		v.VPSUBD(v.bits(0x3f400000), y, i)
		v.VPSRAD(operand.Imm(23), i, i)
		e = v.new()
		v.VCVTDQ2PS(i, e)
		e = v.sub(e, bias)
		v.VPSLLD(operand.Imm(23), i, i)
		m = v.new()
		v.VPSUBD(i, y, m)
	}
	y := v.logPoly(v.sub(m, v.c(1)), e)
	zero := v.c(0)
	y = v.sel(v.cmp(x, equal, v.bits(posInf)), x, y)
	y = v.sel(v.cmp(x, equal, zero), v.bits(negInf), y)
	y = v.sel(v.cmp(x, less, zero), v.bits(quiet), y)
	return v.sel(v.cmp(x, unordered, x), x, y)
}

// tanh is E/(E+2), E = e^2|x|-1, with x's sign.
func (v vec) tanh(x V) V {
	t := v.min(v.c(10), v.abs(x))
	n, em1 := v.expParts(v.add(t, t))
	s := v.scale(v.load(v.c(1)), n)
	e := v.fma(s, em1, v.sub(s, v.c(1)))
	return v.or(v.div(e, v.add(e, v.c(2))), v.and(x, v.bits(signBit)))
}

// sigmoid is z/(1+z) below 0 and 1/(1+z) above, z = e^-|x|.
func (v vec) sigmoid(x V) V {
	z := v.expNoOverflow(v.or(x, v.bits(signBit)))
	one := v.load(v.c(1))
	return v.div(v.sel(v.cmp(x, less, v.c(0)), z, one), v.add(z, one))
}

// erf is x + x·P(x²) to 1 and 1 - e^-Q(|x|) beyond.
func (v vec) erf(x V) V {
	t := v.min(v.c(4), v.abs(x))
	// erf(x)/x - 1 in x² on [0, 1].
	p := v.poly(v.mul(t, t), 0.12837916612625122, -0.3761262595653534, 0.11283577233552933, -0.026853235438466072,
		0.00518687954172492, -0.0007994925836101174, 7.79628026066348e-05)
	small := v.fma(t, p, t)
	// -ln erfc on [1, 4].
	q := v.poly(t, 0.00034154008608311415, 1.1270891427993774, 0.638144850730896, 0.10310681909322739,
		-0.021838143467903137, 0.0029476869385689497, -0.00018638063920661807)
	big := v.sub(v.c(1), v.expNoOverflow(v.xor(q, v.bits(signBit))))
	return v.or(v.sel(v.cmp(t, less, v.c(1)), small, big), v.and(x, v.bits(signBit)))
}

// normalCDF is Φ, for which AVX-512 looks up polynomials of pieces. AVX2 makes σ(x·P(x²)) of it, where P is the polynomial that is best for the absolute
// error of Φ = σ(x·P) to |x| = 5.5; beyond, σ is 0 or 1.
func (v vec) normalCDF(x V) V {
	if v.s.masked() {
		return v.add(v.or(v.halfErf(v.abs(x)), v.and(x, v.bits(signBit))), v.c(0.5))
	}
	s := v.min(v.c(5.5*5.5), v.mul(x, x))
	p := v.poly(s, 1.5957694453158133, 0.07266889146608765, -6.957327743000538e-05, -0.00010777171087726639, 7.047144445127189e-06,
		-1.2309310167332623e-07, -8.293084454356125e-09, 4.798055765458298e-10, -7.383857435961483e-12)
	return v.sigmoid(v.mul(x, p))
}

// geluErf is x·Φ(x), of which AVX-512 makes x/2 + |x|·(Φ(|x|) - 1/2).
func (v vec) geluErf(x V) V {
	if v.s.masked() {
		abs := v.abs(x)
		return v.fma(abs, v.halfErf(abs), v.mul(x, v.c(0.5)))
	}
	return v.mul(x, v.normalCDF(x))
}

// halfErf is Φ(x) - 1/2 for x ≥ 0, from AVX-512 on: round(5.5·x) says which of 32 polynomials is near, of what is left of 5.5·x. The last, from
// 5.55 on, is 1/2.
func (v vec) halfErf(x V) V {
	const pieces, perUnit, degree, magic = 32, 5.5, 4, 3 << 22 // which when added leaves an integer in the lowest bits
	x = v.min(v.c((pieces-1)/perUnit), x)
	which := v.fma(x, v.c(perUnit), v.c(magic))
	left := v.fnma(x, v.c(perUnit), v.sub(which, v.c(magic)))
	var table [degree + 1][]float32
	for i := range pieces {
		c := [degree + 1]float64{0.5}
		if i < pieces-1 {
			c = interpolate(func(u float64) float64 { return math.Erf((float64(i)-u)/perUnit/math.Sqrt2) / 2 })
		}
		for j := range table {
			table[j] = append(table[j], float32(c[j]))
		}
	}
	y := v.lookup(fmt.Sprintf("halfErf%d", degree), table[degree], which)
	for j := degree - 1; j >= 0; j-- {
		v.VFMADD213PS(v.lookup(fmt.Sprintf("halfErf%d", j), table[j], which), left, y)
	}
	return y
}

// interpolate returns the polynomial of degree 4, from its constant on, that is f at Chebyshev's points of [-1/2, 1/2].
func interpolate(f func(x float64) float64) (c [5]float64) {
	var x, diff [5]float64 // divided differences
	for i := range x {
		x[i] = math.Cos(math.Pi*(float64(i)+0.5)/5) / 2
		diff[i] = f(x[i])
	}
	for n := 1; n < 5; n++ {
		for i := 4; i >= n; i-- {
			diff[i] = (diff[i] - diff[i-1]) / (x[i] - x[i-n])
		}
	}
	for i := 4; i >= 0; i-- { // c = c·(x - x[i]) + diff[i]
		for j := 4; j >= 0; j-- {
			c[j] *= -x[i]
			if j > 0 {
				c[j] += c[j-1]
			}
		}
		c[0] += diff[i]
	}
	return c
}

// lookup is the numbers of a table of 32 that the lowest bits of i say.
func (v vec) lookup(name string, table []float32, i V) V {
	if !v.tables[name] {
		v.tables[name] = true
		v.StaticGlobal(name)
		v.DataAttributes(attr.RODATA | attr.NOPTR)
		for j, x := range table {
			v.AddDatum(4*j, operand.U32(math.Float32bits(x)))
		}
	}
	at := operand.NewDataAddr(operand.NewStaticSymbol(name), 0)
	r := v.new()
	v.VMOVUPS(i, r)
	v.VPERMI2PS(at.Offset(64), v.load(at), r)
	return r
}

// softplus is max(x, 0) + ln(1+z), z = e^-|x|.
func (v vec) softplus(x V) V {
	z := v.expNoOverflow(v.or(x, v.bits(signBit)))
	big := v.cmp(z, lessEqual, v.c(0.5)) // not big
	half := v.mul(v.sub(z, v.c(1)), v.c(0.5))
	f := v.sel(big, z, half)
	e := v.sel(big, v.c(0), v.c(1))
	return v.add(v.max(v.c(0), x), v.logPoly(f, e))
}

var unaries = []struct {
	name string
	body func(v vec, x V) V
}{
	{"Exp", vec.exp},
	{"Log", vec.log},
	{"Tanh", vec.tanh},
	{"Sigmoid", vec.sigmoid},
	{"Erf", vec.erf},
	{"GeluErf", vec.geluErf},
	{"GeluTanh", func(v vec, x V) V {
		const c = 2 * 0.797884560802865355879892119868763737 // 2√(2/π)
		cubic := v.fma(v.mul(x, x), v.c(c*0.044715), v.c(c))
		return v.mul(x, v.sigmoid(v.mul(x, cubic)))
	}},
	{"Silu", func(v vec, x V) V { return v.mul(x, v.sigmoid(x)) }},
	{"Softplus", vec.softplus},
	{"Relu", func(v vec, x V) V { return v.max(v.c(0), x) }},
	{"HardSwish", func(v vec, x V) V {
		return v.mul(x, v.min(v.c(1), v.max(v.c(0), v.fma(x, v.c(1.0/6), v.c(0.5)))))
	}},
	{"Sqrt", func(v vec, x V) V { r := v.new(); v.VSQRTPS(x, r); return r }},
	{"Rsqrt", func(v vec, x V) V { r := v.new(); v.VSQRTPS(x, r); return v.div(v.c(1), r) }},
	{"Recip", func(v vec, x V) V { return v.div(v.c(1), x) }},
	{"Abs", vec.abs},
	{"Neg", func(v vec, x V) V { return v.xor(x, v.bits(signBit)) }},
}

var binaries = []struct {
	name string
	body func(v vec, x, y V) V
}{
	{"Add", func(v vec, x, y V) V { return v.add(x, y) }},
	{"Sub", func(v vec, x, y V) V { return v.sub(x, y) }},
	{"Mul", func(v vec, x, y V) V { return v.mul(x, y) }},
	{"Div", func(v vec, x, y V) V { return v.div(x, y) }},
	{"Max", func(v vec, x, y V) V { return v.maxNaN(x, y) }},
	{"Min", func(v vec, x, y V) V { return v.minNaN(x, y) }},
}

var parametric = []struct {
	name, dst  string
	in, params []string
	body       func(v vec, in, p []V) V
}{
	{"divScalar", "dst", []string{"x"}, []string{"s"}, func(v vec, in, p []V) V { return v.div(in[0], p[0]) }},
	{"leakyRelu", "dst", []string{"x"}, []string{"alpha"}, func(v vec, in, p []V) V {
		return v.sel(v.cmp(in[0], less, v.c(0)), v.mul(in[0], p[0]), in[0])
	}},
	{"clip", "dst", []string{"x"}, []string{"lo", "hi"}, func(v vec, in, p []V) V { return v.min(p[1], v.max(p[0], in[0])) }},
	{"affine", "dst", []string{"x"}, []string{"a", "b"}, func(v vec, in, p []V) V { return v.fma(in[0], p[0], p[1]) }},
	{"reluGrad", "dst", []string{"dy", "y"}, nil, func(v vec, in, p []V) V { return v.sel(v.cmp(in[1], lessEqual, v.c(0)), v.c(0), in[0]) }},
	{"geluGrad", "dst", []string{"dy", "x"}, nil, func(v vec, in, p []V) V {
		x := in[1]
		density := v.mul(v.expNoOverflow(v.mul(v.mul(x, x), v.c(-0.5))), v.c(0.3989422804014327))
		return v.mul(in[0], v.fma(density, x, v.normalCDF(x)))
	}},
	{"deviationGrad", "dst", []string{"dy", "x"}, []string{"mean", "a", "b", "c"}, func(v vec, in, p []V) V {
		return v.fma(v.sub(in[1], p[0]), p[2], v.fma(in[0], p[1], p[3]))
	}},
	{"scaledDeviationGrad", "dst", []string{"dy", "x", "scale"}, []string{"mean", "a", "b", "c"}, func(v vec, in, p []V) V {
		return v.fma(v.sub(in[1], p[0]), p[2], v.fma(v.mul(in[0], in[2]), p[1], p[3]))
	}},
	{"normalize", "dst", []string{"x", "scale", "bias"}, []string{"mean", "inv"}, func(v vec, in, p []V) V {
		return v.fma(v.mul(v.sub(in[0], p[0]), p[1]), in[1], in[2])
	}},
	{"mulDeviation", "dst", []string{"x", "y"}, []string{"mean"}, func(v vec, in, p []V) V { return v.mul(in[0], v.sub(in[1], p[0])) }},
	{"mulAdd", "dst", []string{"x", "y", "z"}, nil, func(v vec, in, p []V) V { return v.fma(in[0], in[1], in[2]) }},
	{"axpy", "y", []string{"y", "x"}, []string{"a"}, func(v vec, in, p []V) V { return v.fma(in[1], p[0], in[0]) }},
}
