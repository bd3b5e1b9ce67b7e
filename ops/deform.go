package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// DeformConv is a convolution whose taps are moved by offsets, which are data, and weighed by a mask: the
// columns of the matrix that it multiplies are linear interpolations, read by way of [gridTaps].
func init() {
	register(
		Op{Name: "DeformConv", Since: []int{19, 22}, MinIn: 3, MaxIn: 5, Types: []TypeSet{Floats}, Infer: inferDeformConv,
			Compile: Table{tensor.Float32: deformConv[float32], tensor.Float64: deformConv[float64]}.Always(0), Grad: gradDeformConv},
		// dY, X, W, offset, mask; the gradients of those but the first
		Op{Domain: Internal, Name: "DeformConvGrad", Since: []int{1}, MinIn: 4, MaxIn: 5, MinOut: 3, MaxOut: 4, Types: []TypeSet{Floats}, Infer: inferGrads(2, 3, 4),
			Compile: Table{tensor.Float32: deformConvGrad[float32], tensor.Float64: deformConvGrad[float64]}.Always(0), Portable: portableDeformConvGrad},
	)
}

func inferDeformConv(n *Node) ([]Info, error) {
	as := *n
	as.In = []Info{n.In[0], n.In[1], n.Info(3)}
	out, err := inferConv(false)(&as)
	if err != nil || !out[0].Ranked {
		return out, err
	}
	for _, i := range []int{2, 4} {
		if in := n.Info(i); in.Ranked && len(in.Shape) != len(out[0].Shape) {
			return nil, fmt.Errorf("input %d of %v does not suit an output of %v", i, in.Shape, out[0].Shape)
		}
	}
	return out, nil
}

// deform is the geometry and the inputs of a DeformConv.
type deform[T kernel.Float] struct {
	*convShape
	groups int          // of channels that are moved together
	k, pix int          // taps of a window, elements of a plane of the output
	image  *gridSampler // of a plane of X

	x, w, offset []T
	mask         []T // nil: 1 everywhere
}

func deformOf[T kernel.Float](c *Ctx, x, w, offset, mask *tensor.Tensor) (*deform[T], error) {
	if err := sameFloats(c, len(c.Ins)); err != nil {
		return nil, err
	}
	if x == nil || w == nil || offset == nil {
		return nil, fmt.Errorf("the input, the weights and the offsets are not all tensors")
	}
	s, err := shapeOfConv(c.Node, x.Shape(), w.Shape(), false)
	if err != nil {
		return nil, err
	}
	groups := c.Node.Int("offset_group", 1)
	if groups < 1 || groups > maxWindow || s.c%int(groups) != 0 {
		return nil, fmt.Errorf("%d channels do not divide into offset_group %d", s.c, groups)
	}
	rank := len(s.in)
	if _, err := tensor.NumElements(append([]int{int(groups), rank}, s.kernel...)); err != nil {
		return nil, err
	}
	d := &deform[T]{convShape: s, groups: int(groups), k: product(s.kernel), pix: product(s.out),
		image: &gridSampler{width: 2, padding: "zeros", dims: s.in, strides: rowMajor(s.in), size: product(s.in), taps: 1 << rank},
		x:     tensor.Data[T](x), w: tensor.Data[T](w), offset: tensor.Data[T](offset)}
	for range rank {
		d.image.slope = append(d.image.slope, 1)
	}
	if want := append([]int{s.n, d.groups * d.k * rank}, s.out...); !slices.Equal(offset.Shape(), want) {
		return nil, fmt.Errorf("offsets of %v where %v are wanted", offset.Shape(), want)
	}
	if mask != nil {
		if want := append([]int{s.n, d.groups * d.k}, s.out...); !slices.Equal(mask.Shape(), want) {
			return nil, fmt.Errorf("a mask of %v where %v is wanted", mask.Shape(), want)
		}
		d.mask = tensor.Data[T](mask)
	}
	return d, nil
}

// fill finds what places [lo, hi) of the output of image n read under one of the windows' taps, counted over the
// groups.
func (d *deform[T]) fill(t *gridTaps[T], n, tap, lo, hi int) {
	rank := len(d.in)
	offset := d.offset[(n*d.groups*d.k+tap)*rank*d.pix:]
	at, strides := make([]int, rank), rowMajor(d.out)
	unravel(at, tap%d.k, d.kernel)
	for a := range at {
		at[a] = at[a]*d.dil[a] - d.begin[a]
	}
	t.fill(d.image, func(i, a int) float64 {
		return float64(i/strides[a]%d.out[a]*d.stride[a]+at[a]) + float64(offset[a*d.pix+i])
	}, lo, hi)
}

// rows calls f for each channel that a tap, counted over the groups, is for: places [lo, hi) of that row of the
// column matrix.
func (d *deform[T]) rows(cols []T, tap, lo, hi int, f func(channel int, row []T)) {
	channels := d.c / d.groups
	first, k := tap/d.k*channels, tap%d.k
	for ch := first; ch < first+channels; ch++ {
		f(ch, cols[(ch*d.k+k)*d.pix+lo:(ch*d.k+k)*d.pix+hi])
	}
}

// masks is the mask of places [lo, hi), nil if there is none.
func (d *deform[T]) masks(n, tap, lo, hi int) []T {
	if d.mask == nil {
		return nil
	}
	at := (n*d.groups*d.k + tap) * d.pix
	return d.mask[at+lo : at+hi]
}

// blocks calls f for each tap and each block of places [lo, hi) of image n's output.
func (d *deform[T]) blocks(c *Ctx, n int, slopes bool, f func(tap, lo, hi int, t *gridTaps[T])) {
	block := d.image.block()
	each := (d.pix + block - 1) / block
	c.Pool.For(d.groups*d.k*each, 1, func(from, to int) {
		var t gridTaps[T]
		if slopes {
			t.dw = make([][]T, len(d.in))
		}
		for i := from; i < to; i++ {
			tap, lo := i/each, i%each*block
			hi := min(lo+block, d.pix)
			d.fill(&t, n, tap, lo, hi)
			f(tap, lo, hi, &t)
		}
	})
}

// columns makes room for the column matrix of one image.
func (d *deform[T]) columns(c *Ctx) ([]T, error) {
	t, err := c.New(tensor.TypeOf[T](), d.c, d.k, d.pix)
	if err != nil {
		return nil, err
	}
	return tensor.Data[T](t), nil
}

// column fills places [lo, hi) of the rows of a tap.
func (d *deform[T]) column(cols []T, n, tap, lo, hi int, t *gridTaps[T]) {
	mask := d.masks(n, tap, lo, hi)
	d.rows(cols, tap, lo, hi, func(ch int, row []T) {
		sumTaps(row, d.plane(d.x, n, ch), t)
		if mask != nil {
			kernel.Mul(row, row, mask)
		}
	})
}

// plane is a channel of image n of X or its gradient.
func (d *deform[T]) plane(x []T, n, ch int) []T {
	return x[(n*d.c+ch)*d.image.size:][:d.image.size]
}

func deformConv[T kernel.Float](c *Ctx) error {
	d, err := deformOf[T](c, c.In(0), c.In(1), c.In(2), c.In(4))
	if err != nil {
		return err
	}
	t, err := c.Alloc(0, tensor.TypeOf[T](), d.output...)
	if err != nil || t.Len() == 0 {
		return err
	}
	var bias []T
	if c.In(3) != nil {
		if bias, err = perChannel[T](c, 3, d.m); err != nil {
			return err
		}
	}
	cols, err := d.columns(c)
	if err != nil {
		return err
	}
	y, rows, depth := tensor.Data[T](t), d.m/d.group, d.c/d.group*d.k
	for n := range d.n {
		d.blocks(c, n, false, func(tap, lo, hi int, t *gridTaps[T]) { d.column(cols, n, tap, lo, hi, t) })
		for g := range d.group {
			var ep kernel.EpilogueOf[T]
			if bias != nil {
				ep.RowBias = bias[g*rows:]
			}
			kernel.GemmEpilogue(c.Pool, false, false, rows, d.pix, depth, 1, d.w[g*rows*depth:], depth, cols[g*depth*d.pix:], d.pix, 0, y[(n*d.m+g*rows)*d.pix:], d.pix, &ep)
		}
	}
	return nil
}

func gradDeformConv(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	in := append([]*onnx.Value{dy[0]}, n.Inputs[:3]...)
	if n.Has(4) {
		in = append(in, n.Inputs[4])
	}
	out := g.Internal("DeformConvGrad", len(in)-1, in, n.Attrs...)
	if n.Has(3) {
		axes := []int64{0}
		for i := 2; i < g.Rank(n.Inputs[1]); i++ {
			axes = append(axes, int64(i))
		}
		out = slices.Insert(out, 3, g.ReduceSum(dy[0], false, axes...))
	} else if n.Has(4) {
		out = slices.Insert(out, 3, nil)
	}
	return out, nil
}

func deformConvGrad[T kernel.Float](c *Ctx) error {
	d, err := deformOf[T](c, c.In(1), c.In(2), c.In(3), c.In(4))
	if err != nil {
		return err
	}
	if !slices.Equal(c.In(0).Shape(), d.output) {
		return fmt.Errorf("a gradient of %v where %v is wanted", c.In(0).Shape(), d.output)
	}
	var grads [4][]T
	for i := range grads {
		if in := c.In(i + 1); in != nil {
			t, err := c.Alloc(i, tensor.TypeOf[T](), in.Shape()...)
			if err != nil {
				return err
			}
			clearTensor(t)
			grads[i] = tensor.Data[T](t)
		}
	}
	dy := tensor.Data[T](c.In(0))
	if len(dy) == 0 {
		return nil
	}
	cols, err := d.columns(c)
	if err != nil {
		return err
	}
	dcols, err := d.columns(c)
	if err != nil {
		return err
	}
	rows, depth := d.m/d.group, d.c/d.group*d.k
	for n := range d.n {
		for g := range d.group {
			kernel.Gemm(c.Pool, true, false, depth, d.pix, rows, 1, d.w[g*rows*depth:], depth, dy[(n*d.m+g*rows)*d.pix:], d.pix, 0, dcols[g*depth*d.pix:], d.pix)
		}
		d.blocks(c, n, true, func(tap, lo, hi int, t *gridTaps[T]) {
			d.column(cols, n, tap, lo, hi, t)
			d.moves(dcols, grads[2], grads[3], n, tap, lo, hi, t)
		})
		d.back(c, n, dcols, grads[0])
		for g := range d.group {
			kernel.Gemm(c.Pool, false, true, rows, depth, d.pix, 1, dy[(n*d.m+g*rows)*d.pix:], d.pix, cols[g*depth*d.pix:], d.pix, 1, grads[1][g*rows*depth:], depth)
		}
	}
	return nil
}

// moves gives the gradients of a tap's offsets and mask, as gridSlopes does a grid's, and applies the mask to the
// columns' gradients.
func (d *deform[T]) moves(dcols, doffset, dmask []T, n, tap, lo, hi int, t *gridTaps[T]) {
	mask := d.masks(n, tap, lo, hi)
	sums := make([]T, len(t.at))
	d.rows(dcols, tap, lo, hi, func(ch int, row []T) {
		in := d.plane(d.x, n, ch)
		for i, v := range row {
			for j := t.start[i]; j < t.start[i+1]; j++ {
				sums[j] += v * in[t.at[j]]
			}
		}
		if mask != nil {
			kernel.Mul(row, row, mask)
		}
	})
	at := n*d.groups*d.k + tap
	for i := range hi - lo {
		weigh := func(w []T) (sum T) {
			for j := t.start[i]; j < t.start[i+1]; j++ {
				sum += w[j] * sums[j]
			}
			return sum
		}
		m := T(1)
		if mask != nil {
			m = mask[i]
			dmask[at*d.pix+lo+i] = weigh(t.w)
		}
		for a, dw := range t.dw {
			doffset[(at*len(t.dw)+a)*d.pix+lo+i] = m * weigh(dw)
		}
	}
}

// back adds the columns' gradients to the elements that they were read from. Taps overlap, so channels are what is
// divided among workers.
func (d *deform[T]) back(c *Ctx, n int, dcols, dx []T) {
	c.Pool.For(d.c, 1, func(from, to int) {
		var t gridTaps[T]
		for from < to {
			g := from * d.groups / d.c
			end := min(to, (g+1)*d.c/d.groups)
			for k := range d.k {
				for lo := 0; lo < d.pix; lo += d.image.block() {
					hi := min(lo+d.image.block(), d.pix)
					d.fill(&t, n, g*d.k+k, lo, hi)
					for ch := from; ch < end; ch++ {
						plane := d.plane(dx, n, ch)
						for i, v := range dcols[(ch*d.k+k)*d.pix+lo : (ch*d.k+k)*d.pix+hi] {
							for j := t.start[i]; j < t.start[i+1]; j++ {
								plane[t.at[j]] += t.w[j] * v
							}
						}
					}
				}
			}
			from = end
		}
	})
}
