package ops

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
)

func init() {
	register(
		Op{Name: "Slice", Since: []int{1, 10, 11, 13}, MinIn: 1, MaxIn: 5, Infer: inferSlice, Moves: []int{0}, Compile: compileSlice, Grad: gradSlice},
		Op{Domain: Internal, Name: "SliceGrad", Since: []int{1}, MinIn: 4, MaxIn: 6, Infer: inferShapeInput(1), Compile: compileSliceGrad, Portable: portableSliceGrad},
	)
}

// span1 is what a slice takes of one dimension.
type span1 struct{ start, step, n int }

// sliceSpan cuts start, end and step to a dimension of d.
func sliceSpan(start, end, step int64, axis, d int) (span1, error) {
	if step == 0 {
		return span1{}, fmt.Errorf("the step of axis %d is 0", axis)
	}
	n := int64(d)
	lo, hi := int64(0), n
	if step < 0 {
		lo, hi = -1, n-1
	}
	at := func(v int64) int64 {
		if v < 0 {
			v += n
		}
		return min(max(v, lo), hi)
	}
	if d == 0 {
		return span1{0, 1, 0}, nil
	}
	s, e := max(at(start), 0), at(end) // a start before the first element is the first one even backwards, where NumPy takes none
	count := int64(0)
	if step > 0 && e > s {
		count = (e-s-1)/step + 1
	} else if step < 0 && e < s {
		count = (s-e-1)/-max(step, -math.MaxInt64) + 1
	}
	if count <= 1 {
		step = 1
	}
	return span1{int(s), int(step), int(count)}, nil
}

// sliceArgs is the axes and the steps of k slices.
func sliceArgs(k, ends int, axes, steps []int64, hasAxes, hasSteps bool, rank int) (ax []int, st []int64, err error) {
	if !hasAxes {
		axes = make([]int64, k)
		for i := range axes {
			axes[i] = int64(i)
		}
	}
	if !hasSteps {
		steps = slices.Repeat([]int64{1}, k)
	}
	if ends != k || len(axes) != k || len(steps) != k {
		return nil, nil, fmt.Errorf("%d starts, %d ends, %d axes and %d steps", k, ends, len(axes), len(steps))
	}
	ax, err = NormAxes(axes, rank)
	return ax, steps, err
}

func inferSlice(n *Node) ([]Info, error) {
	in := n.Info(0)
	if !in.Ranked {
		return []Info{Unranked(in.DType)}, nil
	}
	var v [4][]int64
	var ok, known [4]bool
	for i, name := range []string{"starts", "ends", "axes", "steps"} {
		var err error
		if v[i], ok[i], known[i], err = n.IntsInput(name, i+1, 10); err != nil {
			return nil, err
		}
	}
	if !ok[0] || !ok[1] {
		return nil, errors.New("starts or ends are not given")
	}
	out := slices.Clone(in.Shape)
	if !known[2] || !known[3] || !known[0] && n.Info(1).elements() == nil || !known[1] && n.Info(2).elements() == nil {
		if ok[2] && known[2] {
			ax, err := NormAxes(v[2], len(out))
			if err != nil {
				return nil, err
			}
			for _, a := range ax {
				out[a] = Unknown
			}
			return []Info{Tensor(in.DType, out...)}, nil
		}
		if l := listLen(n, 1); l >= 0 && !ok[2] {
			for i := range min(l, len(out)) {
				out[i] = Unknown
			}
			return []Info{Tensor(in.DType, out...)}, nil
		}
		return []Info{Tensor(in.DType, unknownDims(len(out))...)}, nil
	}
	starts, ends := numbers(v[0]), numbers(v[1])
	if !known[0] {
		starts = n.Info(1).elements()
	}
	if !known[1] {
		ends = n.Info(2).elements()
	}
	ax, steps, err := sliceArgs(len(starts), len(ends), v[2], v[3], ok[2], ok[3], len(out))
	if err != nil {
		return nil, err
	}
	for i, a := range ax {
		if steps[i] == 0 {
			return nil, fmt.Errorf("the step of axis %d is 0", a)
		}
		s, known1 := starts[i].Int()
		e, known2 := ends[i].Int()
		if !out[a].Known() || !known1 || !known2 {
			out[a] = sliceDim(starts[i], ends[i], steps[i], out[a])
			continue
		}
		span, err := sliceSpan(s, e, steps[i], a, out[a].N)
		if err != nil {
			return nil, err
		}
		out[a] = D(span.n)
	}
	return []Info{Tensor(in.DType, out...)}, nil
}

// sliceDim is [sliceSpan]'s count where one of the numbers is not known.
func sliceDim(start, end Dim, step int64, d Dim) Dim {
	s, sKnown := start.Int()
	e, eKnown := end.Int()
	if step < 0 { // of the last element, or what is beyond it, and all before
		if !sKnown || s != -1 && s < math.MaxInt32 || !eKnown || e > -math.MaxInt32 || step == math.MinInt64 {
			return Unknown
		}
		return d.CeilDiv(number(-step))
	}
	// What is not less than MaxInt32 is past the end of every dimension.
	at := func(v Dim, n int64, known bool) Dim {
		least, some := v.Least()
		most, ok := D(0).Sub(v).Least()
		switch {
		case known && n >= math.MaxInt32:
			return d
		case known && n <= -math.MaxInt32:
			return D(0)
		case some && least >= 0:
			return v.Min(d)
		case ok && most > 0:
			return d.Add(v).Max(D(0))
		}
		return Unknown
	}
	from, to := at(start, s, sKnown), at(end, e, eKnown)
	if least, ok := start.Least(); ok && least >= 0 && !(sKnown && s >= math.MaxInt32) {
		from = start // past the end there is nothing, however far
	}
	if from.Same(D(0)) && step == 1 {
		return to
	}
	return to.Sub(from).CeilDiv(number(step)).Max(D(0))
}

// sliceAt is the shape that a slice of shape has, and where its elements lie. The arguments
// are the inputs from first on, or attributes.
func sliceAt(c *Ctx, shape []int, first, before int) (out, strides []int, off int, err error) {
	var v [4][]int64
	var ok [4]bool
	for i, name := range []string{"starts", "ends", "axes", "steps"} {
		if v[i], ok[i], err = runInts(c, name, first+i, before); err != nil {
			return nil, nil, 0, err
		}
	}
	if !ok[0] || !ok[1] {
		return nil, nil, 0, errors.New("starts or ends are not given")
	}
	ax, steps, err := sliceArgs(len(v[0]), len(v[1]), v[2], v[3], ok[2], ok[3], len(shape))
	if err != nil {
		return nil, nil, 0, err
	}
	out, strides = slices.Clone(shape), rowMajor(shape)
	for i, a := range ax {
		s, err := sliceSpan(v[0][i], v[1][i], steps[i], a, shape[a])
		if err != nil {
			return nil, nil, 0, err
		}
		out[a] = s.n
		off += s.start * strides[a]
		strides[a] *= s.step
	}
	return out, strides, off, nil
}

func compileSlice(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		x, err := tensorIn(c, 0)
		if err != nil {
			return err
		}
		a, err := Keep(c, func() (*arrangement, error) {
			shape, ss, off, err := sliceAt(c, x.Shape(), 1, 10)
			if err != nil {
				return nil, err
			}
			return arrange(shape, ss, off), nil
		}, 1, 2, 3, 4)
		if err != nil {
			return err
		}
		return a.into(c, x)
	}, nil
}

func compileSliceGrad(*Node) (Kernel, error) {
	return func(c *Ctx) error {
		dy, dx, err := allocLike(c, 1)
		if err != nil {
			return err
		}
		shape, ds, off, err := sliceAt(c, dx.Shape(), 2, 0)
		if err != nil {
			return err
		}
		if !slices.Equal(shape, dy.Shape()) {
			return fmt.Errorf("the gradient has shape %v, the slice %v", dy.Shape(), shape)
		}
		return strided(c.Pool, dx, dy, shape, ds, off, rowMajor(shape), 0)
	}, nil
}

func gradSlice(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	args := []*onnx.Value{dy[0], g.Shape(n.Inputs[0])}
	if n.Since < 10 {
		args = append(args, g.Int64s(n.Ints("starts", nil)...), g.Int64s(n.Ints("ends", nil)...))
		if a := n.Attr("axes"); a != nil {
			args = append(args, g.Int64s(a.Ints...))
		}
	} else {
		args = append(args, n.Inputs[1:]...)
	}
	out := make([]*onnx.Value, len(n.Inputs))
	out[0] = g.Internal("SliceGrad", 1, args)[0]
	return out, nil
}

func portableSliceGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	return []*onnx.Value{g.MoveBack(n.Inputs[0], n.Inputs[1], func(numbers *onnx.Value) *onnx.Value {
		return g.Op("Slice", append([]*onnx.Value{numbers}, n.Inputs[2:]...)...)
	})}, nil
}
