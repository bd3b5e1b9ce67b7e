package ops

import (
	"fmt"
	"slices"
	"sync"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Conv and ConvTranspose over one to three spatial axes. A transposed convolution is
// the gradient of a convolution with respect to its input, so both and all their
// gradients share one geometry, that of the convolution ([convShape]).
func init() {
	register(
		Op{Name: "Conv", Since: []int{1, 11, 22}, MinIn: 2, MaxIn: 3, Types: []TypeSet{Floats},
			Infer: inferConv(false), Compile: compileConv, FLOPs: convFLOPs, Grad: gradConv},
		// The fourth input is added to the result.
		Op{Domain: Internal, Name: "Conv", Since: []int{1}, MinIn: 2, MaxIn: 4, Types: []TypeSet{Floats}, Infer: inferConv(false), Compile: compileConv, FLOPs: convFLOPs},
		Op{Name: "ConvTranspose", Since: []int{1, 11, 22}, MinIn: 2, MaxIn: 3, Types: []TypeSet{Floats},
			Infer: inferConv(true), Compile: compileConvTranspose, Grad: gradConvTranspose,
			FLOPs: func(c *Ctx) int64 { return tapFLOPs(c.In(0).Len(), c.In(1)) }},
		// dY, W, shape of X
		Op{Domain: Internal, Name: "ConvGradInput", Since: []int{1}, MinIn: 3, Types: []TypeSet{Floats, Floats, Index},
			Infer:   inferShapeInput(2),
			Compile: convGrad(convGradInput[float32], convGradInput[float64]), Portable: portableConvGradInput},
		// dY, X, shape of W
		Op{Domain: Internal, Name: "ConvGradWeight", Since: []int{1}, MinIn: 3, Types: []TypeSet{Floats, Floats, Index},
			Infer:   inferShapeInput(2),
			Compile: convGrad(convGradWeight[float32], convGradWeight[float64]), Portable: portableConvGradWeight},
		Op{Domain: Internal, Name: "ConvTransposeGradInput", Since: []int{1}, MinIn: 3, Types: []TypeSet{Floats, Floats, Index},
			Infer:   inferShapeInput(2),
			Compile: convGrad(convTransposeGradInput[float32], convTransposeGradInput[float64]), Portable: portableConvTransposeGradInput},
		Op{Domain: Internal, Name: "ConvTransposeGradWeight", Since: []int{1}, MinIn: 3, Types: []TypeSet{Floats, Floats, Index},
			Infer:   inferShapeInput(2),
			Compile: convGrad(convTransposeGradWeight[float32], convTransposeGradWeight[float64]), Portable: portableConvTransposeGradWeight},
	)
}

// maxWindow bounds the attributes of windows, so that no sum or product of two overflows.
const maxWindow = 1 << 30

// window is the attributes of a convolution or pooling.
type window struct {
	kernel, stride, dil, begin, end []int
	auto                            string
	ceil                            bool
}

// windowInts is an attribute of n as count ints, each within [lo, maxWindow].
func windowInts(n *Node, name string, count, def, lo int) ([]int, error) {
	out := make([]int, count)
	v := n.Ints(name, nil)
	if len(v) == 0 {
		for i := range out {
			out[i] = def
		}
		return out, nil
	}
	if len(v) != count {
		return nil, fmt.Errorf("%s %v should have %d elements", name, v, count)
	}
	for i, x := range v {
		if x < int64(lo) || x > maxWindow {
			return nil, fmt.Errorf("%s %v is out of range", name, v)
		}
		out[i] = int(x)
	}
	return out, nil
}

// windowOf reads the attributes for that many spatial axes.
func windowOf(n *Node, rank int) (*window, error) {
	if rank < 1 || rank > 3 {
		return nil, fmt.Errorf("%d spatial axes: one to three are supported", rank)
	}
	w := &window{auto: n.Str("auto_pad", "NOTSET"), ceil: n.Int("ceil_mode", 0) != 0}
	var err error
	if a := n.Attr("kernel_shape"); a != nil && len(a.Ints) > 0 {
		if w.kernel, err = windowInts(n, "kernel_shape", rank, 1, 1); err != nil {
			return nil, err
		}
	}
	if w.stride, err = windowInts(n, "strides", rank, 1, 1); err != nil {
		return nil, err
	}
	if w.dil, err = windowInts(n, "dilations", rank, 1, 1); err != nil {
		return nil, err
	}
	pads := make([]int, 2*rank)
	switch w.auto {
	case "", "NOTSET":
		w.auto = "NOTSET"
		if pads, err = windowInts(n, "pads", 2*rank, 0, 0); err != nil {
			return nil, err
		}
	case "VALID", "SAME_UPPER", "SAME_LOWER":
	default:
		return nil, fmt.Errorf("auto_pad %q is not known", w.auto)
	}
	w.begin, w.end = pads[:rank:rank], pads[rank:]
	return w, nil
}

// reach is how far the window extends along an axis.
func (w *window) reach(i int) int { return (w.kernel[i]-1)*w.dil[i] + 1 }

// axis is the number of windows along axis i over in elements, and the padding there.
func (w *window) axis(i, in int) (out, begin, end int, err error) {
	eff, s := w.reach(i), w.stride[i]
	if w.auto == "SAME_UPPER" || w.auto == "SAME_LOWER" {
		out = (in + s - 1) / s
		total := max(0, (out-1)*s+eff-in)
		begin = total / 2
		if w.auto == "SAME_LOWER" {
			begin = total - begin
		}
		return out, begin, total - begin, nil
	}
	begin, end = w.begin[i], w.end[i]
	room := in + begin + end - eff
	if room < 0 {
		return 0, 0, 0, fmt.Errorf("a window of %d does not fit into spatial axis %d of %d with padding %d and %d", eff, i, in, begin, end)
	}
	out = room/s + 1
	if w.ceil {
		out = (room+s-1)/s + 1
		if (out-1)*s >= in+begin { // it would start in the padding at the end
			out--
		}
	}
	return out, begin, end, nil
}

// reachDim is reach for a kernel of that size.
func (w *window) reachDim(i int, kernel Dim) Dim {
	return kernel.Sub(D(1)).Mul(D(w.dil[i])).Add(D(1))
}

// axisDim is axis where the dimension or the kernel's size is no number.
func (w *window) axisDim(i int, in, kernel Dim) Dim {
	eff, s := w.reachDim(i, kernel), D(w.stride[i])
	if w.auto == "SAME_UPPER" || w.auto == "SAME_LOWER" {
		return in.CeilDiv(s)
	}
	padded := in.Add(D(w.begin[i] + w.end[i]))
	if !w.ceil {
		return padded.Sub(eff).FloorDiv(s).Add(D(1))
	}
	out := padded.Sub(eff).CeilDiv(s).Add(D(1))
	// Windows that would start in the padding at the end are left out, of which there is one at most.
	return out.Min(in.Add(D(w.begin[i])).CeilDiv(s).Max(out.Sub(D(1))))
}

// transposedDim is transposed where the dimension or the kernel's size is no number.
func (w *window) transposedDim(i int, in, kernel Dim, outPad int) Dim {
	s := D(w.stride[i])
	if w.auto == "SAME_UPPER" || w.auto == "SAME_LOWER" {
		return in.Mul(s)
	}
	return in.Sub(D(1)).Mul(s).Add(w.reachDim(i, kernel)).Add(number(int64(outPad - w.begin[i] - w.end[i])))
}

// transposed is the output size and the padding of a transposed convolution along axis
// i over in elements; want is the size asked for, or -1.
func (w *window) transposed(i, in, outPad, want int) (out, begin, end int, err error) {
	eff, s := w.reach(i), w.stride[i]
	if in < 1 {
		return 0, 0, 0, fmt.Errorf("spatial axis %d is empty", i)
	}
	full := s*(in-1) + outPad + eff
	if want < 0 && (w.auto == "SAME_UPPER" || w.auto == "SAME_LOWER") {
		want = in * s
	}
	if want >= 0 {
		total := max(0, full-want)
		begin = total - total/2
		if w.auto == "SAME_UPPER" {
			begin = total / 2
		}
		return want, begin, total - begin, nil
	}
	begin, end = w.begin[i], w.end[i]
	if out = full - begin - end; out < 1 {
		return 0, 0, 0, fmt.Errorf("the padding %d and %d leaves nothing of spatial axis %d", begin, end, i)
	}
	return out, begin, end, nil
}

// convShape is a convolution from N×C×in to N×M×out; for a transposed one, in is its
// output.
type convShape struct {
	n, c, m, group                           int
	in, out, kernel, stride, dil, begin, end []int
	input, output                            []int // shapes of the tensors
}

func groupOf(n *Node) (int, error) {
	g := n.Int("group", 1)
	if g < 1 || g > maxWindow {
		return 0, fmt.Errorf("group %d is out of range", g)
	}
	return int(g), nil
}

// outPads is the attributes output_padding and output_shape (nil: not given).
func outPads(n *Node, rank int) (pad, want []int, err error) {
	if pad, err = windowInts(n, "output_padding", rank, 0, 0); err != nil {
		return nil, nil, err
	}
	if v := n.Ints("output_shape", nil); len(v) > 0 {
		if len(v) == rank+2 {
			v = v[2:]
		}
		if len(v) != rank {
			return nil, nil, fmt.Errorf("output_shape %v does not suit %d spatial axes", v, rank)
		}
		for _, d := range v {
			if d < 1 || d > maxWindow {
				return nil, nil, fmt.Errorf("output_shape %v is out of range", v)
			}
			want = append(want, int(d))
		}
	}
	return pad, want, nil
}

// inferConv gives N×M×spatial.
func inferConv(transpose bool) func(*Node) ([]Info, error) {
	return func(n *Node) ([]Info, error) {
		x, w := n.In[0], n.In[1]
		group, err := groupOf(n)
		if err != nil {
			return nil, err
		}
		if !x.Ranked {
			if !w.Ranked {
				return []Info{Unranked(x.DType)}, nil
			}
			x.Shape = make([]Dim, len(w.Shape))
			for i := range x.Shape {
				x.Shape[i] = Unknown
			}
		}
		if len(x.Shape) < 3 || w.Ranked && len(w.Shape) != len(x.Shape) {
			return nil, fmt.Errorf("an input of rank %d does not suit weights of rank %d", len(x.Shape), w.Rank())
		}
		rank := len(x.Shape) - 2
		win, err := windowOf(n, rank)
		if err != nil {
			return nil, err
		}
		out := make([]Dim, rank+2)
		for i := range out {
			out[i] = Unknown
		}
		out[0] = x.Shape[0]
		if w.Ranked {
			a, b := w.Shape[0], w.Shape[1] // M, C/group; or C, M/group
			if a.Known() && a.N%group != 0 {
				return nil, fmt.Errorf("%d channels do not divide into %d groups", a.N, group)
			}
			c := b.Mul(D(group))
			if out[1] = a; transpose {
				out[1], c = c, a
			}
			if c.Known() && x.Shape[1].Known() && c.N != x.Shape[1].N {
				return nil, fmt.Errorf("the weights are for %d channels, the input has %v", c.N, x.Shape[1])
			}
			if b := n.Info(2); b.Ranked && (len(b.Shape) != 1 || b.Shape[0].Known() && out[1].Known() && b.Shape[0].N != out[1].N) {
				return nil, fmt.Errorf("a bias of %v does not suit %v output channels", b.Shape, out[1])
			}
		}
		var opad, want []int
		if transpose {
			if opad, want, err = outPads(n, rank); err != nil {
				return nil, err
			}
		}
		given := win.kernel != nil
		if !given {
			win.kernel = make([]int, rank)
		}
		for i := range rank {
			known, size := given, Unknown
			if given {
				size = D(win.kernel[i])
			} else if w.Ranked {
				size = w.Shape[i+2]
			}
			if w.Ranked && w.Shape[i+2].Known() {
				k := w.Shape[i+2].N
				if k < 1 || k > maxWindow || given && k != win.kernel[i] {
					return nil, fmt.Errorf("weights of %v do not suit a kernel of %v", w.Shape, win.kernel)
				}
				win.kernel[i], known = k, true
			}
			d := x.Shape[i+2]
			if want != nil {
				out[i+2] = D(want[i])
				continue
			}
			if d.N > maxWindow {
				continue
			}
			if !known || !d.Known() {
				if transpose {
					out[i+2] = win.transposedDim(i, d, size, opad[i])
				} else {
					out[i+2] = win.axisDim(i, d, size)
				}
				continue
			}
			var o int
			if transpose {
				o, _, _, err = win.transposed(i, d.N, opad[i], -1)
			} else {
				o, _, _, err = win.axis(i, d.N)
			}
			if err != nil {
				return nil, err
			}
			out[i+2] = D(o)
		}
		return []Info{Tensor(x.DType, out...)}, nil
	}
}

// shapeOfConv is the geometry for an input xs and weights ws.
func shapeOfConv(n *Node, xs, ws []int, transpose bool) (*convShape, error) {
	group, err := groupOf(n)
	if err != nil {
		return nil, err
	}
	rank := len(xs) - 2
	if len(ws) != len(xs) {
		return nil, fmt.Errorf("an input of rank %d does not suit weights of rank %d", len(xs), len(ws))
	}
	w, err := windowOf(n, rank)
	if err != nil {
		return nil, err
	}
	for i, k := range ws[2:] {
		if k < 1 || k > maxWindow || xs[i+2] > maxWindow || w.kernel != nil && w.kernel[i] != k {
			return nil, fmt.Errorf("weights of %v do not suit an input of %v and a kernel of %v", ws, xs, w.kernel)
		}
	}
	w.kernel = ws[2:]
	s := &convShape{n: xs[0], c: ws[1] * group, m: ws[0], group: group, kernel: w.kernel, stride: w.stride, dil: w.dil,
		in: make([]int, rank), out: make([]int, rank), begin: make([]int, rank), end: make([]int, rank)}
	channels := s.c
	if transpose {
		channels = s.m
	}
	if s.m%group != 0 || channels != xs[1] {
		return nil, fmt.Errorf("weights of %v in %d groups do not suit an input of %v", ws, group, xs)
	}
	if !transpose {
		for i, d := range xs[2:] {
			s.in[i] = d
			if s.out[i], s.begin[i], s.end[i], err = w.axis(i, d); err != nil {
				return nil, err
			}
		}
		return s.settled(), nil
	}
	pad, want, err := outPads(n, rank)
	if err != nil {
		return nil, err
	}
	for i, d := range xs[2:] {
		o := -1
		if want != nil {
			o = want[i]
		}
		s.out[i] = d
		if s.in[i], s.begin[i], s.end[i], err = w.transposed(i, d, pad[i], o); err != nil {
			return nil, err
		}
		// What is left over at the end beyond the last window must not make one more.
		if extra := s.in[i] + s.begin[i] + s.end[i] - w.reach(i) - s.stride[i]*(d-1); extra >= s.stride[i] {
			s.end[i] -= extra
		}
	}
	return s.settled(), nil
}

// settled has the shapes of the tensors too.
func (s *convShape) settled() *convShape {
	s.input, s.output = append([]int{s.n, s.c}, s.in...), append([]int{s.n, s.m}, s.out...)
	return s
}

// flat is the shape for the kernels of two axes, ok false if there are three.
func (s *convShape) flat() (cv kernel.Conv2D, ok bool) {
	cv = kernel.Conv2D{N: s.n, C: s.c, M: s.m, Group: s.group, H: 1, KH: 1}
	i := len(s.in) - 1
	if i > 1 {
		return cv, false
	}
	cv.W, cv.KW, cv.StrideW, cv.DilW, cv.PadLeft, cv.PadRight = s.in[i], s.kernel[i], s.stride[i], s.dil[i], s.begin[i], s.end[i]
	if i == 1 {
		cv.H, cv.KH, cv.StrideH, cv.DilH, cv.PadTop, cv.PadBottom = s.in[0], s.kernel[0], s.stride[0], s.dil[0], s.begin[0], s.end[0]
	}
	return cv, true
}

// taps calls f for each run of output positions of row k of the column matrix of group
// g, three spatial axes: positions [col, col+n) come from x[at], x[at+stride]...
func (s *convShape) taps(g, k int, f func(col, at, n int)) {
	kd, kh, kw := s.kernel[0], s.kernel[1], s.kernel[2]
	c, r := k/(kd*kh*kw), k%(kd*kh*kw)
	tap := [3]int{r / (kh * kw), r / kw % kh, r % kw}
	plane := (g*(s.c/s.group) + c) * s.in[0] * s.in[1] * s.in[2]
	st := s.stride[2]
	left := tap[2]*s.dil[2] - s.begin[2]
	lo := max(0, (-left+st-1)/st)
	hi := min(s.out[2], (s.in[2]-left+st-1)/st)
	if lo >= hi {
		return
	}
	for od := range s.out[0] {
		d := od*s.stride[0] + tap[0]*s.dil[0] - s.begin[0]
		if d < 0 || d >= s.in[0] {
			continue
		}
		for oh := range s.out[1] {
			h := oh*s.stride[1] + tap[1]*s.dil[1] - s.begin[1]
			if h >= 0 && h < s.in[1] {
				f((od*s.out[1]+oh)*s.out[2]+lo, plane+(d*s.in[1]+h)*s.in[2]+lo*st+left, hi-lo)
			}
		}
	}
}

// columns makes room for the column matrix of one group: k rows of pix.
func columns[T kernel.Float](c *Ctx, s *convShape) (cols []T, k, pix int, err error) {
	k, pix = s.c/s.group*product(s.kernel), product(s.out)
	t, err := c.New(tensor.TypeOf[T](), k, pix)
	if err != nil {
		return nil, 0, 0, err
	}
	return tensor.Data[T](t), k, pix, nil
}

func vol2col[T kernel.Float](p *kernel.Pool, s *convShape, cols, x []T, g, pix int) {
	p.For(len(cols)/max(1, pix), 1, func(lo, hi int) {
		for k := lo; k < hi; k++ {
			row := cols[k*pix : (k+1)*pix]
			clear(row)
			s.taps(g, k, func(col, at, n int) {
				for i := range n {
					row[col+i] = x[at+i*s.stride[2]]
				}
			})
		}
	})
}

func convForward[T kernel.Float](c *Ctx, s *convShape, y, x, w []T, packed func() *kernel.PackedConv[T], ep *kernel.EpilogueOf[T]) error {
	if len(y) == 0 {
		return nil
	}
	if cv, ok := s.flat(); ok && len(w) > 0 {
		var pc *kernel.PackedConv[T]
		if packed != nil {
			pc = packed()
		} else {
			pc = kernel.PackConvWeights(cv, w, false)
		}
		kernel.Conv(c.Pool, cv, y, x, pc, ep)
		return nil
	}
	cols, k, pix, err := columns[T](c, s)
	if err != nil {
		return err
	}
	rows := s.m / s.group
	for n := range s.n {
		for g := range s.group {
			vol2col(c.Pool, s, cols, x[n*s.c*product(s.in):], g, pix)
			at := (n*s.m + g*rows) * pix
			part := ep
			if ep != nil {
				p := *ep
				if p.RowBias != nil {
					p.RowBias = p.RowBias[g*rows:]
				}
				if p.Residual != nil {
					p.Residual = p.Residual[at:]
				}
				part = &p
			}
			kernel.GemmEpilogue(c.Pool, false, false, rows, pix, k, 1, w[g*rows*k:], k, cols, pix, 0, y[at:], pix, part)
		}
	}
	return nil
}

func convBackInput[T kernel.Float](c *Ctx, s *convShape, dx, dy, w []T) error {
	if len(dx) == 0 {
		return nil
	}
	if len(dy) == 0 || len(w) == 0 {
		clear(dx)
		return nil
	}
	if cv, ok := s.flat(); ok {
		kernel.ConvGradInput(c.Pool, cv, dx, dy, w)
		return nil
	}
	cols, k, pix, err := columns[T](c, s)
	if err != nil {
		return err
	}
	clear(dx)
	rows, taps := s.m/s.group, product(s.kernel)
	for n := range s.n {
		for g := range s.group {
			kernel.Gemm(c.Pool, true, false, k, pix, rows, 1, w[g*rows*k:], k, dy[(n*s.m+g*rows)*pix:], pix, 0, cols, pix)
			x := dx[n*s.c*product(s.in):]
			c.Pool.For(s.c/s.group, 1, func(lo, hi int) { // rows of one channel add to its plane alone
				for r := lo * taps; r < hi*taps; r++ {
					row := cols[r*pix : (r+1)*pix]
					s.taps(g, r, func(col, at, n int) {
						for i := range n {
							x[at+i*s.stride[2]] += row[col+i]
						}
					})
				}
			})
		}
	}
	return nil
}

func convBackWeight[T kernel.Float](c *Ctx, s *convShape, dw, dy, x []T) error {
	if len(dw) == 0 {
		return nil
	}
	if len(dy) == 0 {
		clear(dw)
		return nil
	}
	if cv, ok := s.flat(); ok {
		kernel.ConvGradWeight(c.Pool, cv, dw, dy, x, false)
		return nil
	}
	cols, k, pix, err := columns[T](c, s)
	if err != nil {
		return err
	}
	rows := s.m / s.group
	for g := range s.group {
		beta := T(0)
		for n := range s.n {
			vol2col(c.Pool, s, cols, x[n*s.c*product(s.in):], g, pix)
			kernel.Gemm(c.Pool, false, true, rows, k, pix, 1, dy[(n*s.m+g*rows)*pix:], pix, cols, pix, beta, dw[g*rows*k:], k)
			beta = 1
		}
	}
	return nil
}

// constConv packs constant weights once, when they are first used; it is nil if they are not constant.
func constConv[T kernel.Float](n *Node) func() *kernel.PackedConv[T] {
	w := n.Info(1).Const
	group := n.Int("group", 1)
	if w == nil || w.DType() != tensor.TypeOf[T]() || w.Rank() < 3 || w.Rank() > 4 || w.Len() == 0 || group < 1 || int64(w.Shape()[0])%group != 0 {
		return nil
	}
	ws := w.Shape()
	cv := kernel.Conv2D{M: ws[0], C: ws[1] * int(group), Group: int(group), KH: 1, KW: ws[len(ws)-1], H: 1, W: 1, N: 1}
	if len(ws) == 4 {
		cv.KH = ws[2]
	}
	return sync.OnceValue(func() *kernel.PackedConv[T] { return kernel.PackConvWeights(cv, tensor.Data[T](w), true) })
}

func sameFloats(c *Ctx, inputs int) error {
	for i := range inputs {
		if err := c.alike(i); err != nil {
			return err
		}
	}
	for i := range min(inputs, 2) {
		if c.In(i) == nil || c.In(i).Rank() < 2 {
			return fmt.Errorf("input %d is not a tensor of two axes or more", i)
		}
	}
	return nil
}

func convBias[T kernel.Float](c *Ctx, channels int) ([]T, error) {
	b := c.In(2)
	if b == nil {
		return nil, nil
	}
	if b.Len() != channels {
		return nil, fmt.Errorf("a bias of %v does not suit %d output channels", b.Shape(), channels)
	}
	return tensor.Data[T](b), nil
}

func compileConv(n *Node) (Kernel, error) {
	e, err := endingOf(n)
	if err != nil {
		return nil, err
	}
	return Table{
		tensor.Float32: conv(constConv[float32](n), e),
		tensor.Float64: conv(constConv[float64](n), e),
	}.By(0), nil
}

func conv[T kernel.Float](packed func() *kernel.PackedConv[T], e ending) Kernel {
	return func(c *Ctx) error {
		if err := sameFloats(c, 4); err != nil {
			return err
		}
		x, w := c.In(0), c.In(1)
		s, err := Keep(c, func() (*convShape, error) { return shapeOfConv(c.Node, x.Shape(), w.Shape(), false) })
		if err != nil {
			return err
		}
		bias, err := convBias[T](c, s.m)
		if err != nil {
			return err
		}
		y, err := c.Alloc(0, tensor.TypeOf[T](), s.output...)
		if err != nil {
			return err
		}
		var residual []T
		if r := c.In(3); r != nil {
			if !slices.Equal(r.Shape(), y.Shape()) {
				return fmt.Errorf("a residual of %v does not suit an output of %v", r.Shape(), y.Shape())
			}
			residual = tensor.Data[T](r)
		}
		return convForward(c, s, tensor.Data[T](y), tensor.Data[T](x), tensor.Data[T](w), packed, epilogue(c, e, bias, nil, residual, product(s.out)))
	}
}

func convFLOPs(c *Ctx) int64 { return tapFLOPs(c.Out(0).Len(), c.In(1)) }

// tapFLOPs is what n elements take that are each summed from, or spread by, one of the w.Shape()[0] parts of w.
func tapFLOPs(n int, w *tensor.Tensor) int64 {
	return 2 * int64(n) * int64(product(w.Shape()[1:]))
}

func compileConvTranspose(*Node) (Kernel, error) {
	return Table{tensor.Float32: convTranspose[float32], tensor.Float64: convTranspose[float64]}.By(0), nil
}

func convTranspose[T kernel.Float](c *Ctx) error {
	if err := sameFloats(c, 3); err != nil {
		return err
	}
	x, w := c.In(0), c.In(1)
	s, err := shapeOfConv(c.Node, x.Shape(), w.Shape(), true)
	if err != nil {
		return err
	}
	bias, err := convBias[T](c, s.c)
	if err != nil {
		return err
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), s.input...)
	if err != nil {
		return err
	}
	y := tensor.Data[T](t)
	if err := convBackInput(c, s, y, tensor.Data[T](x), tensor.Data[T](w)); err != nil {
		return err
	}
	if bias != nil {
		pix := product(s.in)
		c.Pool.For(s.n*s.c, 1+4096/max(1, pix), func(lo, hi int) {
			for i := lo; i < hi; i++ {
				row := y[i*pix : (i+1)*pix]
				kernel.AddScalar(row, row, bias[i%s.c])
			}
		})
	}
	return nil
}

// shapeOperand is the i-th input's elements as a shape.
func shapeOperand(c *Ctx, i int) ([]int, error) {
	t := c.In(i)
	if t == nil {
		return nil, fmt.Errorf("input %d, a shape, is not a tensor", i)
	}
	v, err := t.Int64s()
	if err != nil {
		return nil, err
	}
	s := make([]int, len(v))
	for k, d := range v {
		s[k] = int(d)
	}
	_, err = tensor.NumElements(s)
	return s, err
}

func convGrad(f32, f64 Kernel) func(*Node) (Kernel, error) {
	return Table{tensor.Float32: f32, tensor.Float64: f64}.Always(0)
}

// gradOperands gives the geometry, from the shape of X and of W, and the output.
func gradOperands[T kernel.Float](c *Ctx, weight, transpose bool) (s *convShape, dy, other, out []T, err error) {
	if err = sameFloats(c, 2); err != nil {
		return
	}
	third, err := shapeOperand(c, 2)
	if err != nil {
		return
	}
	xs, ws := third, c.In(1).Shape()
	if weight {
		xs, ws = ws, third
	}
	if len(xs) < 3 {
		err = fmt.Errorf("an input of %v has no spatial axis", xs)
		return
	}
	if s, err = shapeOfConv(c.Node, xs, ws, transpose); err != nil {
		return
	}
	want := s.output
	if transpose {
		want = s.input
	}
	if !slices.Equal(want, c.In(0).Shape()) {
		err = fmt.Errorf("a gradient of %v where %v is wanted", c.In(0).Shape(), want)
		return
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), third...)
	if err != nil {
		return
	}
	return s, tensor.Data[T](c.In(0)), tensor.Data[T](c.In(1)), tensor.Data[T](t), nil
}

func convGradInput[T kernel.Float](c *Ctx) error {
	s, dy, w, dx, err := gradOperands[T](c, false, false)
	if err != nil {
		return err
	}
	return convBackInput(c, s, dx, dy, w)
}

func convGradWeight[T kernel.Float](c *Ctx) error {
	s, dy, x, dw, err := gradOperands[T](c, true, false)
	if err != nil {
		return err
	}
	return convBackWeight(c, s, dw, dy, x)
}

func convTransposeGradInput[T kernel.Float](c *Ctx) error {
	s, dy, w, dx, err := gradOperands[T](c, false, true)
	if err != nil {
		return err
	}
	return convForward(c, s, dx, dy, w, nil, nil)
}

func convTransposeGradWeight[T kernel.Float](c *Ctx) error {
	s, dy, x, dw, err := gradOperands[T](c, true, true)
	if err != nil {
		return err
	}
	return convBackWeight(c, s, dw, x, dy)
}

func gradConv(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return convGradients(g, n, dy[0], "ConvGradInput", "ConvGradWeight")
}

func gradConvTranspose(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	return convGradients(g, n, dy[0], "ConvTransposeGradInput", "ConvTransposeGradWeight")
}

func convGradients(g *Grad, n *Node, dy *onnx.Value, input, weight string) ([]*onnx.Value, error) {
	x, w := n.Inputs[0], n.Inputs[1]
	out := make([]*onnx.Value, 3)
	out[1] = g.Internal(weight, 1, []*onnx.Value{dy, x, g.Shape(w)}, n.Attrs...)[0] // first, since it mostly is the last that reads x
	if n.Has(2) {
		axes := []int64{0}
		for i := 2; i < g.Rank(x); i++ {
			axes = append(axes, int64(i))
		}
		out[2] = g.ReduceSum(dy, false, axes...)
	}
	out[0] = g.Internal(input, 1, []*onnx.Value{dy, w, g.Shape(x)}, n.Attrs...)[0]
	return out[:len(n.Inputs)], nil
}

// The gradients in standard operators. Padding that hangs on sizes (auto_pad, output_shape) and what windows leave over at the end
// are computed from the shapes, as lists of one number for each spatial axis.

// spatial is the sizes in a shape behind the batch and the channels.
func (g *Grad) spatial(shape *onnx.Value) *onnx.Value { return g.Tail(shape, 2) }

// list is a constant list of ints.
func (g *Grad) list(v []int) *onnx.Value {
	out := make([]int64, len(v))
	for i, d := range v {
		out[i] = int64(d)
	}
	return g.Int64s(out...)
}

// reachOf is how far windows of a kernel extend.
func (g *Grad) reachOf(w *window, kernel *onnx.Value) *onnx.Value {
	one := g.Int64s(1)
	return g.Op("Add", g.Op("Mul", g.Op("Sub", kernel, one), g.list(w.dil)), one)
}

// covered is how far count windows of that reach extend together.
func (g *Grad) covered(w *window, count, reach *onnx.Value) *onnx.Value {
	return g.Op("Add", g.Op("Mul", g.Op("Sub", count, g.Int64s(1)), g.list(w.stride)), reach)
}

// padding is that of windows over in, at the beginning and the end, as [window.axis] has it.
func (g *Grad) padding(w *window, in, kernel *onnx.Value) (begin, end *onnx.Value) {
	if w.auto != "SAME_UPPER" && w.auto != "SAME_LOWER" {
		return g.list(w.begin), g.list(w.end)
	}
	stride := g.list(w.stride)
	out := g.Op("Div", g.Op("Sub", g.Op("Add", in, stride), g.Int64s(1)), stride)
	return g.halves(g.Op("Max", g.Op("Sub", g.covered(w, out, g.reachOf(w, kernel)), in), g.Int64s(0)), w.auto == "SAME_UPPER")
}

// halves cuts total in two, the smaller half first if upper.
func (g *Grad) halves(total *onnx.Value, upper bool) (begin, end *onnx.Value) {
	begin = g.Op("Div", total, g.Int64s(2))
	end = g.Op("Sub", total, begin)
	if !upper {
		begin, end = end, begin
	}
	return begin, end
}

// pad adds x to the beginning and end of v's spatial axes; negative numbers cut.
func (g *Grad) pad(v, begin, end *onnx.Value, x float64) *onnx.Value {
	none := g.Int64s(0, 0)
	return g.Op("Pad", v, g.Concat(none, begin, none, end), g.Like(v, x))
}

// lay pads v so that count windows of that reach, the first of them begin before v, just fit.
func (g *Grad) lay(w *window, v, begin, count, reach *onnx.Value) *onnx.Value {
	end := g.Op("Sub", g.Op("Sub", g.covered(w, count, reach), begin), g.spatial(g.Shape(v)))
	return g.pad(v, begin, end, 0)
}

// spread is what each window of dy gives to the elements it covers of what has sizes in, by kernel.
func (g *Grad) spread(w *window, dy, kernel, begin, in *onnx.Value, group int64) *onnx.Value {
	full := g.With("ConvTranspose", windowAttrs(w.stride, w.dil, group), dy, kernel)
	end := g.Op("Sub", g.Op("Add", begin, in), g.spatial(g.Shape(full)))
	return g.pad(full, g.Op("Neg", begin), end, 0)
}

func windowAttrs(stride, dil []int, group int64) []*onnx.Attribute {
	ints := func(v []int) []int64 {
		out := make([]int64, len(v))
		for i, d := range v {
			out[i] = int64(d)
		}
		return out
	}
	return []*onnx.Attribute{IntsAttr("strides", ints(stride)...), IntsAttr("dilations", ints(dil)...), IntAttr("group", group)}
}

// correlate is the gradient by the weights of windows of that geometry over x, laid out, whose results have the gradient dy.
func (g *Grad) correlate(w *window, dy, x *onnx.Value, group int64) *onnx.Value {
	rank := g.Rank(x)
	swap := append([]int64{1, 0}, axesFrom(2, rank)...)
	if group == 1 {
		x = g.Transpose(x, swap...)
	} else { // the examples of each group become its channels
		shape, groups := g.Shape(x), g.Int64s(group)
		channels := g.Op("Div", g.Dims(x, 1), groups)
		x = g.Op("Reshape", x, g.Concat(g.Dims(x, 0), groups, channels, g.spatial(shape)))
		x = g.Transpose(x, append([]int64{2, 1, 0}, axesFrom(3, rank+1)...)...)
		x = g.Op("Reshape", x, g.Concat(channels, g.Int64s(-1), g.spatial(shape)))
	}
	d := g.With("Conv", windowAttrs(w.dil, w.stride, group), x, g.Transpose(dy, swap...))
	return g.Transpose(d, swap...)
}

func (g *Grad) windowOf(n *Node, v *onnx.Value) (*window, int64, error) {
	w, err := windowOf(n, g.Rank(v)-2)
	if err != nil {
		return nil, 0, err
	}
	group, err := groupOf(n)
	return w, int64(group), err
}

func portableConvGradInput(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, weight, in := n.Inputs[0], n.Inputs[1], g.spatial(n.Inputs[2])
	w, group, err := g.windowOf(n, weight)
	if err != nil {
		return nil, err
	}
	begin, _ := g.padding(w, in, g.spatial(g.Shape(weight)))
	return []*onnx.Value{g.spread(w, dy, weight, begin, in, group)}, nil
}

func portableConvGradWeight(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, x, kernel := n.Inputs[0], n.Inputs[1], g.spatial(n.Inputs[2])
	w, group, err := g.windowOf(n, x)
	if err != nil {
		return nil, err
	}
	begin, _ := g.padding(w, g.spatial(g.Shape(x)), kernel)
	x = g.lay(w, x, begin, g.spatial(g.Shape(dy)), g.reachOf(w, kernel))
	return []*onnx.Value{g.correlate(w, dy, x, group)}, nil
}

// transposedBegin is the padding at the beginning of a transposed convolution over in, as [window.transposed] has it.
func (g *Grad) transposedBegin(n *Node, w *window, in, kernel *onnx.Value) (*onnx.Value, error) {
	outPad, want, err := outPads(n, len(w.stride))
	if err != nil {
		return nil, err
	}
	var to *onnx.Value
	switch {
	case want != nil:
		to = g.list(want)
	case w.auto == "SAME_UPPER" || w.auto == "SAME_LOWER":
		to = g.Op("Mul", in, g.list(w.stride))
	default:
		return g.list(w.begin), nil
	}
	full := g.Op("Add", g.covered(w, in, g.reachOf(w, kernel)), g.list(outPad))
	begin, _ := g.halves(g.Op("Max", g.Op("Sub", full, to), g.Int64s(0)), w.auto == "SAME_UPPER")
	return begin, nil
}

func portableConvTransposeGradInput(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, weight, in := n.Inputs[0], n.Inputs[1], g.spatial(n.Inputs[2])
	w, group, err := g.windowOf(n, weight)
	if err != nil {
		return nil, err
	}
	kernel := g.spatial(g.Shape(weight))
	begin, err := g.transposedBegin(n, w, in, kernel)
	if err != nil {
		return nil, err
	}
	dy = g.lay(w, dy, begin, in, g.reachOf(w, kernel))
	return []*onnx.Value{g.With("Conv", windowAttrs(w.stride, w.dil, group), dy, weight)}, nil
}

func portableConvTransposeGradWeight(g *Grad, n *Node) ([]*onnx.Value, error) {
	dy, x, kernel := n.Inputs[0], n.Inputs[1], g.spatial(n.Inputs[2])
	w, group, err := g.windowOf(n, x)
	if err != nil {
		return nil, err
	}
	in := g.spatial(g.Shape(x))
	begin, err := g.transposedBegin(n, w, in, kernel)
	if err != nil {
		return nil, err
	}
	dy = g.lay(w, dy, begin, in, g.reachOf(w, kernel))
	return []*onnx.Value{g.correlate(w, x, dy, group)}, nil
}
