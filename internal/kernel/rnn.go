package kernel

import (
	"math"
	"unsafe"
)

// Cells of recurrent networks for one row of a batch, after the products with
// the weights. Slices of length h are one row; gates are overwritten with their
// activated values, which training needs.

// LSTMCell advances a long short-term memory cell of size h by a step:
//
//	i = σ(gates[0:h] + peepI ⊙ c)   o = σ(gates[h:2h] + peepO ⊙ c')
//	f = σ(gates[2h:3h] + peepF ⊙ c) g = tanh(gates[3h:4h])
//	c' = f ⊙ c + i ⊙ g              hidden = o ⊙ tanh(c')
//
// gates holds the pre-activations in ONNX's order i, o, f, c, and on return i, o, f
// and g. peep is nil, or 3h weights in ONNX's order i, o, f. c is the state before;
// cNext, hidden have length h; cNext may be c. If tanhC is not nil it
// receives tanh(c').
func LSTMCell[T Float](h int, gates, peep, c, cNext, hidden, tanhC []T) {
	if len(gates) < 4*h || len(c) < h || len(cNext) < h || len(hidden) < h || peep != nil && len(peep) < 3*h || tanhC != nil && len(tanhC) < h {
		panic("kernel: LSTMCell: operand too short")
	}
	i, o, f, g := gates[:h], gates[h:2*h], gates[2*h:3*h], gates[3*h:4*h]
	c, cNext, hidden = c[:h], cNext[:h], hidden[:h]
	if is32[T]() && vector.lstmCell != nil && peep == nil && h > 0 {
		if tanhC == nil {
			tanhC = hidden
		}
		first := func(x []T) *float32 { return (*float32)(unsafe.Pointer(&x[0])) }
		vector.lstmCell(first(i), first(o), first(f), first(g), first(c), first(cNext), first(hidden), first(tanhC), h)
		return
	}
	if peep == nil {
		Sigmoid(gates[:3*h], gates[:3*h])
	} else {
		MulAdd(i, peep[:h], c, i)
		MulAdd(f, peep[2*h:3*h], c, f)
		Sigmoid(i, i)
		Sigmoid(f, f)
	}
	Tanh(g, g)
	Mul(cNext, f, c)
	MulAdd(cNext, i, g, cNext)
	if peep != nil {
		MulAdd(o, peep[h:2*h], cNext, o)
		Sigmoid(o, o)
	}
	if tanhC == nil {
		tanhC = hidden
	}
	tanhC = tanhC[:h]
	Tanh(tanhC, cNext)
	Mul(hidden, o, tanhC)
}

// GRUCell advances a gated recurrent unit of size h by a step, with the reset
// gate applied after the product (linear_before_reset ≠ 0):
//
//	z = σ(gates[0:h])   r = σ(gates[h:2h])
//	n = tanh(gates[2h:3h] + r ⊙ rec)
//	hidden = (1-z) ⊙ n + z ⊙ prev
//
// gates holds the pre-activations in ONNX's order z, r, h, of which the first two
// include the recurrent product and biases and the third the input's alone;
// rec is the recurrent product of the third with its bias, length h. On return gates
// holds z, r and n. hidden may be prev.
func GRUCell[T Float](h int, gates, rec, prev, hidden []T) {
	if len(gates) < 3*h || len(rec) < h || len(prev) < h || len(hidden) < h {
		panic("kernel: GRUCell: operand too short")
	}
	z, r, n := gates[:h], gates[h:2*h], gates[2*h:3*h]
	if is32[T]() && vector.gruCell != nil && h > 0 {
		first := func(x []T) *float32 { return (*float32)(unsafe.Pointer(&x[0])) }
		vector.gruCell(first(z), first(r), first(n), first(rec), first(prev), first(hidden), h)
		return
	}
	Sigmoid(gates[:2*h], gates[:2*h])
	MulAdd(n, r, rec[:h], n)
	Tanh(n, n)
	GRUBlend(z, n, prev[:h], hidden[:h])
}

// GRUBlend ends a step of a gated recurrent unit: hidden = (1-z) ⊙ n + z ⊙ prev. hidden may be prev.
func GRUBlend[T Float](z, n, prev, hidden []T) {
	Sub(hidden, prev, n)
	MulAdd(hidden, z, hidden, n)
}

// LSTMCellGrad is the gradient of [LSTMCell] without peepholes: from dh, that of hidden, and dc, that of c', those of the pre-activations
// (dGates, length 4h) and, in place of dc, that of c. gates, c and cNext are what the cell left; dGates may be gates.
func LSTMCellGrad[T Float](h int, gates, c, cNext, dh, dc, dGates []T) {
	i, o, f, g := gates[:h], gates[h:][:h], gates[2*h:][:h], gates[3*h:][:h]
	di, do, df, dg := dGates[:h], dGates[h:][:h], dGates[2*h:][:h], dGates[3*h:][:h]
	c, cNext, dh, dc = c[:h], cNext[:h], dh[:h], dc[:h]
	if is32[T]() && vector.lstmCellGrad != nil && h > 0 {
		vector.lstmCellGrad(h, first(i), first(c), first(cNext), first(dh), first(dc), first(di))
		return
	}
	for j, d := range dh {
		t := T(math.Tanh(float64(cNext[j])))
		vi, vo, vf, vg := i[j], o[j], f[j], g[j]
		e := dc[j] + d*vo*(1-t*t)
		do[j] = d * t * (vo * (1 - vo))
		di[j] = e * vg * (vi * (1 - vi))
		df[j] = e * c[j] * (vf * (1 - vf))
		dg[j] = e * vi * (1 - vg*vg)
		dc[j] = e * vf
	}
}

// GRUCellGrad is the gradient of [GRUCell]: from dh, that of hidden, those of the pre-activations (dGates, 3h), of the recurrent product of the
// third gate (dRec), and what comes to prev directly. gates is what the cell left, rec what it was given; dGates may be gates, and dRec
// rec.
func GRUCellGrad[T Float](h int, gates, rec, prev, dh, dGates, dRec, dPrev []T) {
	z, r, n := gates[:h], gates[h:][:h], gates[2*h:][:h]
	dz, dr, dn := dGates[:h], dGates[h:][:h], dGates[2*h:][:h]
	rec, prev, dh, dRec, dPrev = rec[:h], prev[:h], dh[:h], dRec[:h], dPrev[:h]
	if is32[T]() && vector.gruCellGrad != nil && h > 0 {
		vector.gruCellGrad(h, first(z), first(rec), first(prev), first(dh), first(dz), first(dRec), first(dPrev))
		return
	}
	for j, d := range dh {
		vz, vr, vn := z[j], r[j], n[j]
		a := d * (1 - vz) * (1 - vn*vn)
		dz[j] = d * (prev[j] - vn) * (vz * (1 - vz))
		dr[j] = a * rec[j] * (vr * (1 - vr))
		dn[j], dRec[j] = a, a*vr
		dPrev[j] = d * vz
	}
}

func first[T Float](x []T) *float32 { return &f32(x)[0] }
