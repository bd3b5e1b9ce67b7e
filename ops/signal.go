package ops

import (
	"fmt"
	"math"
	"math/bits"
	"math/cmplx"
	"slices"

	"gonum.org/v1/gonum/dsp/fourier"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Fourier transforms, windows, and the mel scale. Transforms are computed in float64.
func init() {
	length := Of(tensor.Int32, tensor.Int64)
	register(
		Op{Name: "DFT", Since: []int{17, 20}, MinIn: 1, MaxIn: 3, Types: []TypeSet{Floats, length, length},
			Infer: func(n *Node) ([]Info, error) {
				x := n.In[0]
				if !x.Ranked {
					return []Info{Unranked(x.DType)}, nil
				}
				f, known, err := dftOf(n, x.Shape)
				if err != nil || f == nil {
					return []Info{Unranked(x.DType)}, err
				}
				out := slices.Clone(x.Shape)
				if !known {
					out[f.axis], out[len(out)-1] = f.outDims(n, x.Shape[f.axis])
					return []Info{Tensor(x.DType, out...)}, nil
				}
				out[f.axis], out[len(out)-1] = D(f.outRows()), D(f.outParts())
				return []Info{Tensor(x.DType, out...)}, nil
			},
			Compile: func(n *Node) (Kernel, error) {
				return Table{tensor.Float32: dft[float32], tensor.Float64: dft[float64]}.By(0), nil
			},
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				in := append([]*onnx.Value{dy[0], n.Inputs[0]}, n.Inputs[1:]...)
				attrs := append([]*onnx.Attribute{IntAttr("version", int64(n.Since))}, n.Attrs...)
				return g.Internal("DFTGrad", 1, in, attrs...), nil
			}},
		// dY, X, dft_length, axis
		Op{Domain: Internal, Name: "DFTGrad", Since: []int{1}, MinIn: 2, MaxIn: 4, Portable: portableDFTGrad,
			Infer: func(n *Node) ([]Info, error) { return withoutValues([]Info{n.In[1]}), nil },
			Compile: func(n *Node) (Kernel, error) {
				return Table{tensor.Float32: dftGrad[float32], tensor.Float64: dftGrad[float64]}.By(0), nil
			}},
		Op{Name: "STFT", Since: []int{17}, MinIn: 2, MaxIn: 4, Types: []TypeSet{Floats, length, Floats, length},
			Infer: func(n *Node) ([]Info, error) {
				x := n.In[0]
				out := Unranked(x.DType)
				shape, ok := x.Static()
				if f, known, err := stftOf(n, shape, ok); err != nil {
					return nil, err
				} else if known {
					out = Tensor(x.DType, D(f.batch), D(f.frames), D(f.outRows()), D(2))
				} else if x.Ranked && len(x.Shape) > 1 {
					size := n.number1(3)
					if w := n.Info(2); !n.Has(3) && w.Rank() == 1 {
						size = w.Shape[0]
					}
					rows := size
					if f.onesided {
						rows = size.FloorDiv(D(2)).Add(D(1))
					}
					out = Tensor(x.DType, x.Shape[0], x.Shape[1].Sub(size).FloorDiv(n.number1(1)).Add(D(1)), rows, D(2))
				}
				return []Info{out}, nil
			},
			Compile: func(n *Node) (Kernel, error) {
				return Table{tensor.Float32: stft[float32], tensor.Float64: stft[float64]}.By(0), nil
			},
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				if w := n.Input(2); w != nil && g.Moves(w) {
					return gradSTFTWindow(g, n, dy)
				}
				return g.Internal("STFTGrad", 1, append([]*onnx.Value{dy[0]}, n.Inputs...), n.Attrs...), nil
			}},
		// dY, then the node's inputs
		Op{Domain: Internal, Name: "STFTGrad", Since: []int{1}, MinIn: 3, MaxIn: 5, Portable: portableSTFTGrad,
			Infer: func(n *Node) ([]Info, error) { return withoutValues([]Info{n.In[1]}), nil },
			Compile: func(n *Node) (Kernel, error) {
				return Table{tensor.Float32: stftGrad[float32], tensor.Float64: stftGrad[float64]}.By(0), nil
			}},
	)
	window := func(name string, at func(x float64) float64) Op {
		return Op{Name: name, Since: []int{17}, MinIn: 1, Types: []TypeSet{length}, NoGrad: "its input is a length",
			Infer: func(n *Node) ([]Info, error) {
				d := tensor.DType(n.Int("output_datatype", 1))
				if !(Numeric).Has(d) {
					return nil, fmt.Errorf("output_datatype %d is no number", int(d))
				}
				var size Dim
				if c := n.In[0].Const; c != nil {
					v, err := oneLength(c, "size")
					if err != nil {
						return nil, err
					}
					size = D(v)
				} else {
					size = n.number1(0)
				}
				return []Info{Tensor(d, size)}, nil
			},
			Compile: func(n *Node) (Kernel, error) {
				return func(c *Ctx) error {
					size, err := oneLength(c.In(0), "size")
					if err != nil {
						return err
					}
					y, err := c.Alloc(0, tensor.DType(c.Node.Int("output_datatype", 1)), size)
					if err != nil {
						return err
					}
					period := float64(size)
					if c.Node.Int("periodic", 1) == 0 {
						period--
					}
					for i := range size {
						v := 1.0
						if period > 0 {
							v = at(2 * math.Pi * float64(i) / period)
						}
						tensor.SetFloat64At(y, i, v)
					}
					return nil
				}, nil
			}}
	}
	register(
		window("HannWindow", func(x float64) float64 { return 0.5 - 0.5*math.Cos(x) }),
		window("HammingWindow", func(x float64) float64 { return 25.0/46 - 21.0/46*math.Cos(x) }),
		window("BlackmanWindow", func(x float64) float64 { return 0.42 - 0.5*math.Cos(x) + 0.08*math.Cos(2*x) }),
		Op{Name: "MelWeightMatrix", Since: []int{17}, MinIn: 5, Types: []TypeSet{length, length, length, Floats, Floats}, NoGrad: "its inputs choose bins", Flat: true,
			Infer: func(n *Node) ([]Info, error) {
				d := tensor.DType(n.Int("output_datatype", 1))
				if !(Numeric).Has(d) {
					return nil, fmt.Errorf("output_datatype %d is no number", int(d))
				}
				out := Tensor(d, n.number1(1).FloorDiv(D(2)).Add(D(1)), n.number1(0))
				for i, c := range []*tensor.Tensor{n.In[1].Const, n.In[0].Const} {
					if c == nil {
						continue
					}
					v, err := oneLength(c, []string{"dft_length", "num_mel_bins"}[i])
					if err != nil {
						return nil, err
					}
					if i == 0 {
						v = v/2 + 1
					}
					out.Shape[i] = D(v)
				}
				return []Info{out}, nil
			},
			Compile: func(n *Node) (Kernel, error) { return melWeights, nil }},
	)
}

// maxTransform bounds the length of a transform.
const maxTransform = 1 << 26

// oneLength is a single number that is no length of a tensor yet.
func oneLength(t *tensor.Tensor, what string) (int, error) {
	if t == nil || t.Len() != 1 {
		return 0, fmt.Errorf("%s must be a single number", what)
	}
	v, err := t.Int64s()
	if err != nil {
		return 0, err
	}
	if v[0] < 0 || v[0] > maxTransform {
		return 0, fmt.Errorf("%s %d is out of range", what, v[0])
	}
	return int(v[0]), nil
}

// fft is the transform of one length, after Cooley and Tukey, or, where that has a large prime factor, Bluestein.
type fft struct {
	n     int
	plain *fourier.CmplxFFT
	chirp []complex128 // e^{-πi k²/n}
	b     []complex128 // transform of the chirp's conjugate, wrapped around
	work  []complex128
}

func newFFT(n int) *fft {
	f := &fft{n: n}
	rest := n
	for p := 2; p <= 31 && rest > 1; p++ {
		for rest%p == 0 {
			rest /= p
		}
	}
	if rest == 1 {
		f.plain = fourier.NewCmplxFFT(max(n, 1))
		return f
	}
	m := 1 << bits.Len(uint(2*n-2))
	f.plain = fourier.NewCmplxFFT(m)
	f.chirp, f.b, f.work = make([]complex128, n), make([]complex128, m), make([]complex128, m)
	for k := range n {
		f.chirp[k] = cmplx.Rect(1, -math.Pi*float64(k*k%(2*n))/float64(n))
	}
	for k := range n {
		f.b[k] = cmplx.Conj(f.chirp[k])
		f.b[(m-k)%m] = f.b[k]
	}
	f.plain.Coefficients(f.b, f.b)
	return f
}

// forward is Σ x[j]·e^{-2πi jk/n}, in place.
func (f *fft) forward(x []complex128) {
	if f.chirp == nil {
		f.plain.Coefficients(x, x)
		return
	}
	clear(f.work)
	for k, v := range x {
		f.work[k] = v * f.chirp[k]
	}
	f.plain.Coefficients(f.work, f.work)
	for k := range f.work {
		f.work[k] *= f.b[k]
	}
	f.plain.Sequence(f.work, f.work)
	scale := complex(1/float64(len(f.work)), 0)
	for k := range x {
		x[k] = f.work[k] * f.chirp[k] * scale
	}
}

// backward is Σ x[k]·e^{+2πi jk/n}, in place, not divided by n.
func (f *fft) backward(x []complex128) {
	for k, v := range x {
		x[k] = cmplx.Conj(v)
	}
	f.forward(x)
	for k, v := range x {
		x[k] = cmplx.Conj(v)
	}
}

// dftSpec is a transform along an axis of a tensor whose last axis has the parts of a number.
type dftSpec struct {
	axis, rows, parts, n int // rows along the axis, n of the transform
	inverse, onesided    bool
}

func (f *dftSpec) outRows() int {
	if f.onesided && !f.inverse {
		return f.n/2 + 1
	}
	return f.n
}

func (f *dftSpec) outParts() int {
	if f.onesided && f.inverse {
		return 1
	}
	return 2
}

// dftOf reads the attributes and inputs of a DFT over shape; known is false if they are not known yet.
func dftOf(n *Node, shape []Dim) (f *dftSpec, known bool, err error) {
	since, first := n.Since, 1
	if n.Domain == Internal {
		since, first = int(n.Int("version", 20)), 2
	}
	rank := len(shape)
	if rank < 2 {
		return nil, false, fmt.Errorf("an input of %v has no signal axis and one of parts", shape)
	}
	axis := int64(-2)
	if since < 20 {
		axis = n.Int("axis", 1)
	} else if n.Has(first + 1) {
		c := n.Info(first + 1).Const
		if c == nil {
			return nil, false, nil
		}
		v, err := c.Int64s()
		if err != nil || len(v) != 1 {
			return nil, false, fmt.Errorf("axis must be a single number")
		}
		axis = v[0]
	}
	f = &dftSpec{inverse: n.Int("inverse", 0) != 0, onesided: n.Int("onesided", 0) != 0}
	if f.axis, err = NormAxis(axis, rank); err != nil {
		return nil, false, err
	}
	if f.axis == rank-1 {
		return nil, false, fmt.Errorf("axis %d is that of the parts", axis)
	}
	rows, parts := shape[f.axis], shape[rank-1]
	if parts.Known() && parts.N != 1 && parts.N != 2 {
		return nil, false, fmt.Errorf("the last axis of %v is neither real nor complex", shape)
	}
	if f.onesided && parts.Known() && (parts.N == 2) != f.inverse {
		return nil, false, fmt.Errorf("a one-sided transform takes real input, its inverse complex, not %v", shape)
	}
	f.n = -1
	if n.Has(first) {
		c := n.Info(first).Const
		if c == nil {
			return f, false, nil
		}
		if f.n, err = oneLength(c, "dft_length"); err != nil {
			return nil, false, err
		}
	}
	if !rows.Known() || !parts.Known() {
		return f, false, nil
	}
	f.rows, f.parts = rows.N, parts.N
	if f.n < 0 {
		if f.n = f.rows; f.onesided && f.inverse {
			f.n = 2 * (f.rows - 1)
		}
	}
	if f.n < 1 || f.n > maxTransform {
		return nil, false, fmt.Errorf("a transform of length %d is out of range", f.n)
	}
	return f, true, nil
}

// outDims is outRows and outParts where the rows or the transform's length (input 1) are no numbers.
func (f *dftSpec) outDims(n *Node, rows Dim) (out, parts Dim) {
	size := rows
	if n.Has(1) {
		size = n.number1(1)
	} else if f.onesided && f.inverse {
		size = rows.Sub(D(1)).Mul(D(2))
	}
	switch {
	case f.onesided && f.inverse:
		return size, D(1)
	case f.onesided:
		size = size.FloorDiv(D(2)).Add(D(1))
	}
	return size, D(2)
}

// lines calls do for each line along the axis with where it begins in a tensor of rows and parts of its own.
func (f *dftSpec) lines(p *kernel.Pool, shape []int, do func(t *fft, buf []complex128, line int)) {
	outer, inner := product(shape[:f.axis]), product(shape[f.axis+1:len(shape)-1])
	p.For(outer*inner, 1+4096/max(1, f.n), func(lo, hi int) {
		t, buf := newFFT(f.n), make([]complex128, f.n)
		for line := lo; line < hi; line++ {
			do(t, buf, line)
		}
	})
}

// at is where element r of a line lies in a tensor of that many rows and parts.
func (f *dftSpec) at(shape []int, line, r, rows, parts int) int {
	inner := product(shape[f.axis+1 : len(shape)-1])
	return ((line/inner*rows+r)*inner + line%inner) * parts
}

func loadLine[T kernel.Float](buf []complex128, f *dftSpec, x []T, shape []int, line, rows, parts int) {
	clear(buf)
	for r := range min(rows, len(buf)) {
		i := f.at(shape, line, r, rows, parts)
		if buf[r] = complex(float64(x[i]), 0); parts == 2 {
			buf[r] = complex(float64(x[i]), float64(x[i+1]))
		}
	}
}

func storeLine[T kernel.Float](y []T, buf []complex128, scale float64, f *dftSpec, shape []int, line, rows, parts int) {
	for r := range rows {
		i := f.at(shape, line, r, rows, parts)
		if r >= len(buf) {
			clear(y[i : i+parts])
			continue
		}
		y[i] = T(real(buf[r]) * scale)
		if parts == 2 {
			y[i+1] = T(imag(buf[r]) * scale)
		}
	}
}

func dft[T kernel.Float](c *Ctx) error {
	x := c.In(0)
	shape := x.Shape()
	f, known, err := dftOf(c.Node, Dims(shape))
	if err != nil {
		return err
	}
	if !known {
		return fmt.Errorf("dft_length and axis must be numbers")
	}
	out := slices.Clone(shape)
	out[f.axis], out[len(out)-1] = f.outRows(), f.outParts()
	ty, err := c.Alloc(0, tensor.TypeOf[T](), out...)
	if err != nil {
		return err
	}
	if err := c.Mem.TakeEach(64, f.n); err != nil {
		return err
	}
	xs, y := tensor.Data[T](x), tensor.Data[T](ty)
	f.lines(c.Pool, shape, func(t *fft, buf []complex128, line int) {
		scale := 1.0
		switch {
		case !f.inverse:
			loadLine(buf, f, xs, shape, line, f.rows, f.parts)
			t.forward(buf)
		case f.onesided: // the other half is the conjugate
			loadLine(buf[:min(f.n/2+1, f.n)], f, xs, shape, line, f.rows, f.parts)
			for k := f.n/2 + 1; k < f.n; k++ {
				buf[k] = cmplx.Conj(buf[f.n-k])
			}
			t.backward(buf)
			scale = 1 / float64(f.n)
		default:
			loadLine(buf, f, xs, shape, line, f.rows, f.parts)
			t.backward(buf)
			scale = 1 / float64(f.n)
		}
		storeLine(y, buf, scale, f, shape, line, f.outRows(), f.outParts())
	})
	return nil
}

// dftGrad is the adjoint: the transform the other way, of what was cut padded with zeros, and cut where was padded.
func dftGrad[T kernel.Float](c *Ctx) error {
	x := c.In(1)
	shape := x.Shape()
	f, known, err := dftOf(c.Node, Dims(shape))
	if err != nil {
		return err
	}
	if !known {
		return fmt.Errorf("dft_length and axis must be numbers")
	}
	tx, err := c.Alloc(0, tensor.TypeOf[T](), shape...)
	if err != nil {
		return err
	}
	of := slices.Clone(shape)
	of[f.axis], of[len(of)-1] = f.outRows(), f.outParts()
	if d := c.In(0); !slices.Equal(d.Shape(), of) {
		return fmt.Errorf("a gradient of %v is none of an output of %v", d.Shape(), of)
	}
	dy, dx := tensor.Data[T](c.In(0)), tensor.Data[T](tx)
	f.lines(c.Pool, shape, func(t *fft, buf []complex128, line int) {
		loadLine(buf, f, dy, shape, line, f.outRows(), f.outParts())
		if !f.inverse {
			t.backward(buf)
			storeLine(dx, buf, 1, f, shape, line, f.rows, f.parts)
			return
		}
		t.forward(buf)
		if f.onesided { // all but the first and the middle stand for two
			half := buf[:f.n/2+1]
			for k := 1; k < len(half); k++ {
				if 2*k != f.n {
					half[k] *= 2
				}
			}
			buf = half
		}
		storeLine(dx, buf, 1/float64(f.n), f, shape, line, f.rows, f.parts)
	})
	return nil
}

// stftSpec is a transform of frames of a signal [batch, length, parts], or [batch, length].
type stftSpec struct {
	dftSpec
	batch, length, step, frames int
}

func stftOf(n *Node, shape []int, ok bool) (f *stftSpec, known bool, err error) {
	f = &stftSpec{}
	f.onesided = n.Int("onesided", 1) != 0
	if !ok || n.Info(1).Const == nil {
		return f, false, nil
	}
	if f.step, err = oneLength(n.Info(1).Const, "frame_step"); err != nil {
		return nil, false, err
	}
	f.parts = 1
	switch {
	case len(shape) == 3 && (shape[2] == 1 || shape[2] == 2):
		f.parts = shape[2]
	case len(shape) != 2:
		return nil, false, fmt.Errorf("a signal of %v is neither real nor complex", shape)
	}
	f.batch, f.length = shape[0], shape[1]
	size := -1
	if w := n.Info(2); n.Has(2) {
		if !w.Ranked || len(w.Shape) == 1 && !w.Shape[0].Known() {
			return f, false, nil
		}
		if len(w.Shape) != 1 {
			return nil, false, fmt.Errorf("a window of %v has not one axis", w.Shape)
		}
		size = w.Shape[0].N
	}
	switch {
	case n.Has(3):
		c := n.Info(3).Const
		if c == nil {
			return f, false, nil
		}
		if f.n, err = oneLength(c, "frame_length"); err != nil {
			return nil, false, err
		}
	case size >= 0:
		f.n = size
	default:
		return nil, false, fmt.Errorf("neither a window nor frame_length is given")
	}
	switch {
	case size >= 0 && size != f.n:
		return nil, false, fmt.Errorf("a window of %d does not suit frames of %d", size, f.n)
	case f.step < 1 || f.n < 1 || f.n > f.length:
		return nil, false, fmt.Errorf("frames of %d, %d apart, do not suit a signal of %d", f.n, f.step, f.length)
	case f.onesided && f.parts == 2:
		return nil, false, fmt.Errorf("a one-sided transform takes a real signal, not %v", shape)
	}
	f.frames = (f.length-f.n)/f.step + 1
	return f, true, nil
}

// gradSTFTWindow is the gradient of STFT whose window has one as well.
func gradSTFTWindow(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	frames := g.Positions(n.Outputs[0], 1)
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		return g.framed(in[0], frames, in[1], in[2], nil, n.Int("onesided", 1))
	})
}

// framed is STFT: frames of x, whose numbers are given, times the window, or else of that length, transformed.
func (g *Grad) framed(x, frames, step, window, length *onnx.Value, onesided int64) []*onnx.Value {
	if g.Rank(x) == 2 {
		x = g.Op("Unsqueeze", x, g.Int64s(2))
	}
	step = g.Cast(g.Op("Reshape", step, g.Int64s(1)), tensor.Int64)
	var places *onnx.Value
	if window != nil {
		places = g.Positions(window, 0)
	} else {
		length = g.Cast(g.Op("Squeeze", length), tensor.Int64)
		places = g.Op("Range", g.Const(tensor.Scalar(int64(0))), length, g.Const(tensor.Scalar(int64(1))))
	}
	at := g.Add(g.Op("Unsqueeze", g.Mul(frames, step), g.Int64s(1)), places) // [frames, places]
	parts := g.With("Gather", []*onnx.Attribute{IntAttr("axis", 1)}, x, at)
	if window != nil {
		parts = g.Mul(parts, g.Op("Unsqueeze", window, g.Int64s(1)))
	}
	return g.Node("DFT", 1, []*onnx.Value{parts, nil, g.Const(tensor.Scalar(int64(2)))}, IntAttr("onesided", onesided))
}

func stft[T kernel.Float](c *Ctx) error {
	if err := c.alike(2); err != nil {
		return err
	}
	x := c.In(0)
	f, known, err := stftOf(c.Node, x.Shape(), true)
	if err != nil {
		return err
	}
	if !known {
		return fmt.Errorf("frame_step and frame_length must be numbers")
	}
	rows := f.outRows()
	ty, err := c.Alloc(0, tensor.TypeOf[T](), f.batch, f.frames, rows, 2)
	if err != nil {
		return err
	}
	xs, y := tensor.Data[T](x), tensor.Data[T](ty)
	var w []T
	if t := c.In(2); t != nil {
		w = tensor.Data[T](t)
	}
	c.Pool.For(f.batch*f.frames, 1+4096/f.n, func(lo, hi int) {
		t, buf := newFFT(f.n), make([]complex128, f.n)
		for q := lo; q < hi; q++ {
			from := (q/f.frames*f.length + q%f.frames*f.step) * f.parts
			for i := range buf {
				v := xs[from+i*f.parts:]
				if buf[i] = complex(float64(v[0]), 0); f.parts == 2 {
					buf[i] = complex(float64(v[0]), float64(v[1]))
				}
				if w != nil {
					buf[i] *= complex(float64(w[i]), 0)
				}
			}
			t.forward(buf)
			out := y[q*rows*2:]
			for k, v := range buf[:rows] {
				out[2*k], out[2*k+1] = T(real(v)), T(imag(v))
			}
		}
	})
	return nil
}

// stftGrad adds up the frames' gradients: dY, signal, frame_step, window, frame_length.
func stftGrad[T kernel.Float](c *Ctx) error {
	n := *c.Node
	n.Node = &onnx.Node{Op: "STFT", Attrs: c.Node.Attrs, Inputs: c.Node.Inputs[1:]}
	n.In = c.Node.In[1:]
	x := c.In(1)
	f, known, err := stftOf(&n, x.Shape(), true)
	if err != nil {
		return err
	}
	if !known {
		return fmt.Errorf("frame_step and frame_length must be numbers")
	}
	tx, err := c.Alloc(0, tensor.TypeOf[T](), x.Shape()...)
	if err != nil {
		return err
	}
	dy, dx, rows := tensor.Data[T](c.In(0)), tensor.Data[T](tx), f.outRows()
	clear(dx)
	var w []T
	if t := c.In(3); t != nil {
		w = tensor.Data[T](t)
	}
	c.Pool.For(f.batch, 1, func(lo, hi int) {
		t, buf := newFFT(f.n), make([]complex128, f.n)
		for q := lo * f.frames; q < hi*f.frames; q++ {
			clear(buf)
			for k := range rows {
				v := dy[(q*rows+k)*2:]
				buf[k] = complex(float64(v[0]), float64(v[1]))
			}
			t.backward(buf)
			to := (q/f.frames*f.length + q%f.frames*f.step) * f.parts
			for i, v := range buf {
				if w != nil {
					v *= complex(float64(w[i]), 0)
				}
				if dx[to+i*f.parts] += T(real(v)); f.parts == 2 {
					dx[to+i*f.parts+1] += T(imag(v))
				}
			}
		}
	})
	return nil
}

// melWeights is triangles on the mel scale, as weights of frequencies.
func melWeights(c *Ctx) error {
	var n [3]int
	for i, what := range []string{"num_mel_bins", "dft_length", "sample_rate"} {
		var err error
		if n[i], err = oneLength(c.In(i), what); err != nil {
			return err
		}
	}
	mels, length, rate := n[0], n[1], n[2]
	if rate < 1 || c.In(3).Len() != 1 || c.In(4).Len() != 1 {
		return fmt.Errorf("the sample rate must be positive, and the edges single numbers")
	}
	rows := length/2 + 1
	y, err := c.Alloc(0, tensor.DType(c.Node.Int("output_datatype", 1)), rows, mels)
	if err != nil {
		return err
	}
	mel := func(hertz float64) float64 { return 2595 * math.Log10(1+hertz/700) }
	low, high := mel(tensor.Float64At(c.In(3), 0)), mel(tensor.Float64At(c.In(4), 0))
	step := (high - low) / float64(mels+2)
	bin := func(i int) int {
		hertz := 700 * (math.Pow(10, (float64(i)*step+low)/2595) - 1)
		return int(math.Floor(float64(length+1) * hertz / float64(rate)))
	}
	put := func(row, col int, v float64) error {
		if row < 0 || row >= rows {
			return fmt.Errorf("the edges reach beyond the spectrum's %d frequencies", rows)
		}
		tensor.SetFloat64At(y, row*mels+col, v)
		return nil
	}
	for i := range y.Len() {
		tensor.SetFloat64At(y, i, 0)
	}
	for i := range mels {
		lower, center, higher := bin(i), bin(i+1), bin(i+2)
		if lower < 0 || higher > rows || center < lower || higher < center {
			return fmt.Errorf("the edges reach beyond the spectrum's %d frequencies", rows)
		}
		if lower == center {
			if err := put(center, i, 1); err != nil {
				return err
			}
		}
		for j := lower; j <= center && center > lower; j++ {
			if err := put(j, i, float64(j-lower)/float64(center-lower)); err != nil {
				return err
			}
		}
		for j := center; j < higher; j++ {
			if err := put(j, i, float64(higher-j)/float64(higher-center)); err != nil {
				return err
			}
		}
	}
	return nil
}

// portableDFTGrad is what [dftGrad] is.
func portableDFTGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, x := n.Inputs[0], n.Inputs[1]
	rank := g.Rank(x)
	f, _, err := dftOf(n, g.Info(x).Shape)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, fmt.Errorf("the axis is not known")
	}
	axis, one := g.Int64s(int64(f.axis)), g.Int64s(1)
	rows := g.Dims(x, int64(f.axis))
	size := rows
	switch {
	case n.Has(2):
		size = g.Op("Reshape", g.Cast(n.Inputs[2], tensor.Int64), one)
	case f.inverse && f.onesided:
		size = g.Op("Mul", g.Op("Sub", rows, one), g.Int64s(2))
	}
	along := func(v, from, to *onnx.Value) *onnx.Value { return g.Op("Slice", v, from, to, axis) }
	// fit has v be padded to that many rows.
	fit := func(v, begin, rows *onnx.Value) *onnx.Value {
		missing := g.Op("Sub", g.Op("Sub", rows, begin), g.Dims(v, int64(f.axis)))
		return g.Op("Pad", v, g.Concat(begin, missing), g.Like(v, 0), axis)
	}
	factor := g.Cast(size, g.DType(x))
	in := []*onnx.Value{dy, g.Op("Squeeze", size), g.Op("Squeeze", axis)}
	var d *onnx.Value
	switch {
	case !f.inverse:
		d = g.Mul(g.Node("DFT", 1, in, IntAttr("inverse", 1))[0], factor)
	default:
		d = g.Div(g.Node("DFT", 1, in)[0], factor)
	}
	if f.inverse && f.onesided { // all but the first and the middle stand for two
		half := g.Op("Add", g.Op("Div", size, g.Int64s(2)), one)
		d = along(d, g.Int64s(0), half)
		again := along(d, one, g.Op("Div", g.Op("Add", size, one), g.Int64s(2)))
		d = g.Add(d, fit(again, one, half))
	}
	if n.Has(2) {
		d = fit(along(d, g.Int64s(0), rows), g.Int64s(0), rows)
	}
	return []*onnx.Value{g.Op("Slice", d, g.Int64s(0), g.Dims(x, int64(rank-1)), g.Int64s(int64(rank-1)))}, nil
}

func portableSTFTGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	frames := g.Positions(n.Inputs[0], 1)
	return g.composed(n.Inputs[1:2], n.Inputs[:1], []int{0}, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		return g.framed(in[0], frames, n.Inputs[2], n.Input(3), n.Input(4), n.Int("onesided", 1))
	})
}
