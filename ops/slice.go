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
		Op{Name: "Slice", Since: []int{1, 10, 11, 13}, MinIn: 1, MaxIn: 5, Infer: inferSlice, Compile: compileSlice, Grad: gradSlice},
		Op{Domain: Internal, Name: "SliceGrad", Since: []int{1}, MinIn: 4, MaxIn: 6, Infer: inferShapeInput(1), Compile: compileSliceGrad, NoGrad: noSecond},
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

// sliceArgs is the axes, starts, ends and steps, from what get gives for each of the inputs from at on.
func sliceArgs(starts, ends, axes, steps []int64, hasAxes, hasSteps bool, rank int) (ax []int, st []int64, err error) {
	k := len(starts)
	if !hasAxes {
		axes = make([]int64, k)
		for i := range axes {
			axes[i] = int64(i)
		}
	}
	if !hasSteps {
		steps = slices.Repeat([]int64{1}, k)
	}
	if len(ends) != k || len(axes) != k || len(steps) != k {
		return nil, nil, fmt.Errorf("%d starts, %d ends, %d axes and %d steps", k, len(ends), len(axes), len(steps))
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
	if !known[0] || !known[1] || !known[2] || !known[3] {
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
	ax, steps, err := sliceArgs(v[0], v[1], v[2], v[3], ok[2], ok[3], len(out))
	if err != nil {
		return nil, err
	}
	for i, a := range ax {
		if !out[a].Known() {
			if steps[i] == 0 {
				return nil, fmt.Errorf("the step of axis %d is 0", a)
			}
			if v[0][i] != 0 || v[1][i] < math.MaxInt32 || steps[i] != 1 {
				out[a] = Unknown
			}
			continue
		}
		s, err := sliceSpan(v[0][i], v[1][i], steps[i], a, out[a].N)
		if err != nil {
			return nil, err
		}
		out[a] = D(s.n)
	}
	return []Info{Tensor(in.DType, out...)}, nil
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
	ax, steps, err := sliceArgs(v[0], v[1], v[2], v[3], ok[2], ok[3], len(shape))
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
