package difftest

import (
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	each(`ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare`, func(g *gen) {
		s := g.shape(0, 4)
		g.plain = g.def.Name != "ReduceMax" && g.def.Name != "ReduceMin" // no overflow
		inputs := []*onnx.Value{g.rand(s...)}
		byInput := 18
		if g.def.Name == "ReduceSum" {
			byInput = 13
		}
		if !g.chance(3) {
			if axes := g.axes(len(s), g.since >= 11); g.since >= byInput {
				inputs = append(inputs, g.int64s(axes...))
			} else if len(axes) > 0 {
				g.ints("axes", axes...)
			}
		}
		if g.since >= byInput {
			g.maybe("noop_with_empty_axes", 0, 1)
		}
		g.maybe("keepdims", 0, 1)
		g.node(1, inputs...)
	})
	each(`ArgMax ArgMin`, func(g *gen) {
		g.plain = true // where a NaN ranks the standard does not say
		s := g.full(1, 4)
		if !g.chance(4) {
			g.int("axis", g.axis(len(s), g.since >= 11))
		}
		g.maybe("keepdims", 0, 1)
		if g.since >= 12 {
			g.maybe("select_last_index", 0, 1)
		}
		g.node(1, g.rand(s...))
	})
	generators["CumSum"] = func(g *gen) {
		s := g.shape(1, 4)
		g.maybe("exclusive", 0, 1)
		g.maybe("reverse", 0, 1)
		axis := g.axis(len(s), true)
		if g.chance(2) {
			g.node(1, g.rand(s...), g.feed(tensor.Scalar(int64(axis))))
		} else {
			g.node(1, g.rand(s...), g.feed(tensor.Scalar(int32(axis))))
		}
	}
	generators["Transpose"] = func(g *gen) {
		s := g.shape(0, 5)
		if !g.chance(4) {
			perm := []int64{}
			for _, a := range g.Perm(len(s)) {
				perm = append(perm, int64(a))
			}
			g.ints("perm", perm...)
		}
		g.node(1, g.rand(s...))
	}
	generators["Reshape"] = func(g *gen) {
		s := g.shape(0, 4)
		n := 1
		for _, d := range s {
			n *= d
		}
		zero := g.since >= 14 && g.chance(2)
		if zero {
			g.int("allowzero", 1)
		}
		var to []int64
		rest := n
		for rest > 1 && g.chance(2) {
			d := g.in(1, 6)
			if rest%d == 0 {
				to = append(to, int64(d))
				rest /= d
			}
		}
		if n > 0 {
			to = append(to, int64(rest))
			if g.chance(2) {
				to[g.IntN(len(to))] = -1
			}
			for i, d := range to { // 0: the dimension that was there
				if !zero && i < len(s) && int(d) == s[i] {
					to[i] = 0
				}
			}
		} else {
			to = nil
			for _, d := range s {
				to = append(to, int64(d))
			}
		}
		g.node(1, g.rand(s...), g.int64s(to...))
	}
	generators["Flatten"] = func(g *gen) {
		s := g.shape(0, 4)
		if a := g.IntN(len(s) + 1); !g.chance(4) || len(s) == 0 {
			if g.since >= 11 && a > 0 && g.chance(2) {
				a -= len(s)
				a = min(a, -1)
				if len(s) == 0 {
					a = 0
				}
			}
			g.int("axis", a)
		}
		g.node(1, g.rand(s...))
	}
	generators["Squeeze"] = func(g *gen) {
		s := g.shape(0, 3)
		var at []int64
		for i := range s {
			if g.chance(2) {
				s[i] = 1
				at = append(at, int64(one(g, i, i-len(s))))
			}
		}
		if g.since < 11 {
			for i := range at {
				at[i] = int64((int(at[i]) + len(s)) % len(s))
			}
		}
		g.withAxes(s, at, 13, g.chance(3))
	}
	generators["Unsqueeze"] = func(g *gen) {
		s := g.shape(0, 3)
		r := len(s) + g.in(1, 2)
		at := g.axes(r, g.since >= 11)
		for len(at) > r-len(s) {
			at = at[1:]
		}
		for len(at) < r-len(s) {
			r--
			at = []int64{0}[:r-len(s)]
		}
		if len(at) > 1 && (int(at[0])+r)%r == (int(at[1])+r)%r {
			return
		}
		g.withAxes(s, at, 13, false)
	}
	generators["Expand"] = func(g *gen) {
		s := g.shape(0, 4)
		to := []int64{}
		for _, d := range g.broadcasts(s) {
			to = append(to, int64(d))
		}
		for i := range s {
			if g.chance(3) {
				if k := len(to) - len(s) + i; k >= 0 {
					to[k] = int64(g.in(1, 4))
				}
				s[i] = 1
			}
		}
		g.node(1, g.rand(s...), g.int64s(to...))
	}
	generators["Tile"] = func(g *gen) {
		s := g.shape(0, 4)
		reps := []int64{}
		for range s {
			reps = append(reps, int64(g.in(1-g.IntN(2), 3)))
		}
		g.node(1, g.rand(s...), g.int64s(reps...))
	}
	generators["Concat"] = func(g *gen) {
		s := g.shape(1, 4)
		a := g.axis(len(s), g.since >= 11)
		g.int("axis", a)
		inputs := []*onnx.Value{}
		for range g.in(1, 4) {
			t := slices.Clone(s)
			t[(a+len(s))%len(s)] = g.in(0, 3)
			inputs = append(inputs, g.rand(t...))
		}
		g.node(1, inputs...)
	}
	generators["Split"] = func(g *gen) {
		s := g.full(1, 4)
		a := g.axis(len(s), g.since >= 11)
		g.int("axis", a)
		d := &s[(a+len(s))%len(s)]
		n := g.in(1, 4)
		x, sizes := []*onnx.Value{}, []int64{}
		switch {
		case g.since >= 18 && g.chance(2):
			if *d = g.in(1, 11); (*d+n-1)/n*(n-1) >= *d { // more chunks than there are elements for
				n = 1
			}
			g.int("num_outputs", n)
		case g.chance(3) && g.since < 18:
			*d = n * g.in(1, 3)
		default:
			*d = 0
			for range n {
				sizes = append(sizes, int64(g.in(0, 3)))
				*d += int(sizes[len(sizes)-1])
			}
		}
		x = append(x, g.rand(s...))
		if len(sizes) > 0 && g.since < 13 {
			g.ints("split", sizes...)
		} else if len(sizes) > 0 {
			x = append(x, g.int64s(sizes...))
		}
		g.node(n, x...)
	}
	generators["Slice"] = func(g *gen) {
		s := g.shape(1, 4)
		var starts, ends, steps, axes []int64
		for _, a := range g.Perm(len(s))[:g.in(1, len(s))] {
			far := []int{-100, 100, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64}
			bound := func() int64 { return int64(one(g, one(g, far...), g.in(-6, 6), g.in(-6, 6))) }
			starts, ends = append(starts, bound()), append(ends, bound())
			steps = append(steps, int64(one(g, 1, 1, 2, 3, -1, -2, -3, math.MaxInt64, math.MinInt64+1)))
			if g.since >= 10 && g.chance(2) {
				a -= len(s)
			}
			axes = append(axes, int64(a))
		}
		if g.since < 10 {
			g.ints("starts", starts...)
			g.ints("ends", ends...)
			g.ints("axes", axes...)
			g.node(1, g.rand(s...))
			return
		}
		list := g.int64s
		if g.chance(3) {
			list = func(v ...int64) *onnx.Value {
				w := make([]int32, len(v))
				for i := range v {
					w[i] = int32(min(max(v[i], math.MinInt32), math.MaxInt32))
				}
				return g.feed(tensor.New(w, len(w)))
			}
		}
		inputs := []*onnx.Value{g.rand(s...), list(starts...), list(ends...), nil, nil}
		sorted := true
		for i, a := range axes {
			sorted = sorted && int(a) == i
		}
		if !sorted || g.chance(2) {
			inputs[3] = list(axes...)
		}
		if g.chance(3) {
			inputs = inputs[:4]
		} else {
			inputs[4] = list(steps...)
		}
		g.node(1, inputs...)
	}
	generators["Pad"] = func(g *gen) {
		s := g.full(1, 4)
		modes := []string{"constant", "reflect", "edge"}
		if g.since >= 19 {
			modes = append(modes, "wrap")
		}
		mode := one(g, modes...)
		var axes []int64
		k := len(s)
		if g.since >= 18 && g.chance(2) {
			axes = g.axes(len(s), true)
			for len(axes) == 0 {
				axes = g.axes(len(s), true)
			}
			k = len(axes)
		}
		pads := make([]int64, 2*k)
		for i := range pads {
			a := i % k
			if axes != nil {
				a = (int(axes[a]) + len(s)) % len(s)
			}
			switch lo := -g.IntN(2) * (s[a] / 2); mode {
			case "constant", "edge":
				pads[i] = int64(g.in(lo, 3))
			case "reflect":
				pads[i] = int64(g.in(lo, max(s[a]-1, 0)))
			default:
				pads[i] = int64(g.in(lo, s[a]))
			}
		}
		if mode != "constant" || g.chance(2) {
			g.str("mode", mode)
		}
		if g.since < 11 {
			g.ints("pads", pads...)
			g.maybeFloat("value", -2, 2)
			g.node(1, g.rand(s...))
			return
		}
		inputs := []*onnx.Value{g.rand(s...), g.int64s(pads...), nil, nil}
		if g.chance(2) {
			inputs[2] = g.rand()
		}
		if axes != nil {
			if inputs[3] = g.int64s(axes...); g.chance(3) {
				of := make([]int32, len(axes))
				for i, a := range axes {
					of[i] = int32(a)
				}
				inputs[3] = g.feed(tensor.New(of, len(of)))
			}
		}
		g.node(1, inputs...)
	}
	generators["Gather"] = func(g *gen) {
		s := g.full(1, 4)
		a := g.axis(len(s), g.since >= 11)
		g.int("axis", a)
		g.node(1, g.rand(s...), g.indices(s[(a+len(s))%len(s)], g.since >= 11, g.shape(0, 2)...))
	}
	each(`GatherElements ScatterElements Scatter`, func(g *gen) {
		if g.def.Name == "Scatter" && g.since == 11 { // deprecated there
			return
		}
		s := g.full(1, 4)
		a := g.axis(len(s), true)
		g.int("axis", a)
		to := slices.Clone(s)
		for i := range to {
			to[i] = g.in(1, s[i])
		}
		k := (a + len(s)) % len(s)
		if g.def.Name == "GatherElements" {
			to[k] = g.in(0, 6)
			g.node(1, g.rand(s...), g.indices(s[k], true, to...))
			return
		}
		reduction := g.reduction()
		if reduction == "none" { // which of two writes to one place is last, the standard does not say
			distinct := tensor.New(make([]int64, count(to)), to...)
			inner := count(to[k+1:])
			for i := range distinct.Len() {
				tensor.Data[int64](distinct)[i] = int64(i / inner % to[k])
			}
			g.node(1, g.rand(s...), g.feed(distinct), g.rand(to...))
			return
		}
		g.node(1, g.rand(s...), g.indices(s[k], true, to...), g.rand(to...))
	})
	generators["GatherND"] = func(g *gen) {
		s := g.full(1, 4)
		batch := 0
		if g.since >= 12 && len(s) > 1 && g.chance(2) {
			batch = g.in(1, len(s)-1)
			g.int("batch_dims", batch)
		}
		k := g.in(1, len(s)-batch)
		shape := append(append(slices.Clone(s[:batch]), g.full(0, 2)...), k)
		g.node(1, g.rand(s...), g.feed(g.places(s[batch:], shape)))
	}
	generators["ScatterND"] = func(g *gen) {
		s := g.full(1, 4)
		k := g.in(1, len(s))
		shape := append(g.full(0, 2), k)
		if g.reduction() == "none" {
			shape = []int{1, k}
		}
		updates := append(slices.Clone(shape[:len(shape)-1]), s[k:]...)
		g.node(1, g.rand(s...), g.feed(g.places(s, shape)), g.rand(updates...))
	}
	each(`DepthToSpace SpaceToDepth`, func(g *gen) {
		b := g.in(1, 3)
		g.int("blocksize", b)
		s := []int{g.in(1, 3), g.in(1, 3), g.in(1, 3), g.in(1, 3)}
		if g.def.Name == "DepthToSpace" {
			s[1] *= b * b
			if g.since >= 11 && g.chance(2) {
				g.str("mode", one(g, "DCR", "CRD"))
			}
		} else {
			s[2] *= b
			s[3] *= b
		}
		g.node(1, g.rand(s...))
	})
	generators["Trilu"] = func(g *gen) {
		s := g.shape(2, 4)
		g.maybe("upper", 0, 1)
		inputs := []*onnx.Value{g.rand(s...)}
		if g.chance(2) {
			inputs = append(inputs, g.feed(tensor.Scalar(int64(one(g, g.in(-6, 6), g.in(-6, 6), 1<<40, -1<<40)))))
		}
		g.node(1, inputs...)
	}
	generators["TopK"] = func(g *gen) {
		g.plain = true
		s := g.full(1, 3)
		a := len(s) - 1
		if !g.chance(3) {
			a = g.axis(len(s), g.since >= 11)
			g.int("axis", a)
		}
		a = (a + len(s)) % len(s)
		if g.chance(3) {
			s[a] = g.in(10, 200)
		}
		k := g.in(0, s[a])
		if g.since >= 11 {
			g.maybe("largest", 0, 1)
			g.maybe("sorted", 1)
		}
		if g.since < 10 {
			g.int("k", max(k, 1))
			g.node(2, g.rand(s...))
			return
		}
		g.node(2, g.rand(s...), g.int64s(int64(k)))
	}
	generators["Unique"] = func(g *gen) {
		s := g.full(1, 3)
		if g.chance(2) {
			g.int("axis", g.axis(len(s), true))
		}
		g.maybe("sorted", 0, 1)
		g.plain = true // whether two NaNs are one the standard does not say
		g.node(g.in(1, 4), g.rand(s...))
	}
	generators["Compress"] = func(g *gen) {
		s := g.full(1, 4)
		n := count(s)
		if g.chance(2) {
			a := g.axis(len(s), g.since >= 11)
			g.int("axis", a)
			n = s[(a+len(s))%len(s)]
		}
		g.node(1, g.rand(s...), g.feed(g.tensor(tensor.Bool, g.in(1, n))))
	}
	generators["OneHot"] = func(g *gen) {
		s := g.shape(1, 3)
		depth := g.in(1, 5)
		if a := g.IntN(len(s) + 1); !g.chance(3) {
			g.int("axis", one(g, a, a-len(s)-1))
		}
		g.dtype = one(g, tensor.Int64, tensor.Int32, tensor.Float32)
		x := g.tensor(g.dtype, s...)
		for i := range x.Len() {
			tensor.SetFloat64At(x, i, float64(g.in(-depth-2, depth+2)))
		}
		d := g.feed(tensor.New([]int64{int64(depth)}, []int{1}[:g.IntN(2)]...))
		g.dtype = one(g, tensor.Int64, tensor.Int32, tensor.Float32, tensor.String)
		g.node(1, g.feed(x), d, g.rand(2))
	}
	generators["EyeLike"] = func(g *gen) {
		g.maybe("k", -3, -1, 0, 1, 2, 5)
		if g.chance(2) {
			g.int("dtype", int(one(g, tensor.Float32, tensor.Float64, tensor.Int32, tensor.Int64, tensor.Uint64)))
		}
		g.node(1, g.rand(g.shape(2, 2)...))
	}
	generators["ReverseSequence"] = func(g *gen) {
		s := g.full(2, 4)
		batch, time := one(g, 0, 1), 1
		if batch == 1 {
			time = 0
		}
		if batch == 1 && time == 0 || g.chance(2) {
			g.int("batch_axis", batch)
			g.int("time_axis", time)
		} else {
			batch, time = 1, 0
		}
		lens := make([]int64, s[batch])
		for i := range lens {
			lens[i] = int64(g.in(0, s[time]))
		}
		g.node(1, g.rand(s...), g.int64s(lens...))
	}
	generators["Range"] = func(g *gen) {
		g.dtype = one(g, tensor.Float32, tensor.Float64, tensor.Int16, tensor.Int32, tensor.Int64)
		scalar := func(v float64) *onnx.Value {
			t := g.tensor(g.dtype)
			tensor.SetFloat64At(t, 0, v)
			return g.feed(t)
		}
		delta := one(g, 1.0, -1, 2, -3)
		if g.dtype.IsFloat() {
			delta *= one(g, 1, 0.1, 0.3)
		}
		start := float64(g.in(-5, 5))
		g.node(1, scalar(start), scalar(start+delta*float64(g.in(-3, 12))*one(g, 1, 1, 0.9)), scalar(delta))
	}
	generators["ConstantOfShape"] = func(g *gen) {
		dims := []int64{}
		for _, d := range g.shape(0, 4) {
			dims = append(dims, int64(d))
		}
		if !g.chance(4) {
			g.attrs = append(g.attrs, onnx.TensorAttr("value", g.tensor(g.dtype, 1)))
		}
		g.node(1, g.int64s(dims...))
	}
	generators["CenterCropPad"] = func(g *gen) {
		s := g.full(1, 4)
		axes := g.axes(len(s), true)
		n := len(axes)
		if n == 0 {
			n = len(s)
		} else {
			g.ints("axes", axes...)
		}
		to := make([]int64, n)
		for i := range to {
			to[i] = int64(g.in(1, 8))
		}
		g.node(1, g.rand(s...), g.int64s(to...))
	}
	generators["Dropout"] = func(g *gen) {
		x := g.rand(g.shape(0, 3)...)
		if g.since < 12 {
			g.maybeFloat("ratio", 0, 0.9)
		}
		outs := 1
		if g.since >= 12 { // before, the mask of a run that drops nothing is not filled
			outs = g.in(1, 2)
		}
		if g.since >= 12 && g.chance(2) {
			g.node(outs, x, g.feed(tensor.Scalar(float32(0.4))), g.feed(tensor.Scalar(false)))
			return
		}
		g.node(outs, x)
	}
	generators["Constant"] = func(g *gen) {
		switch g.in(0, 6) {
		case 0:
			t := g.tensor(one(g, tensor.Float32, tensor.Int64, tensor.Float64), g.shape(0, 3)...)
			g.attrs = append(g.attrs, &onnx.Attribute{Name: "value", Type: onnx.AttrTensor, T: t})
		case 1:
			g.int("value_int", g.in(-5, 5))
		case 2:
			g.float("value_float", g.Float32())
		case 3:
			g.floats("value_floats", 1, g.Float32())
		case 4:
			g.str("value_string", one(g, "", "a", "ü"))
		case 5:
			g.strs("value_strings", "a", one(g, "", "ü"))
		default:
			g.ints("value_ints", 1, int64(g.in(-9, 9)))
		}
		if g.since < 12 && g.attrs[0].Name != "value" {
			g.attrs = []*onnx.Attribute{{Name: "value", Type: onnx.AttrTensor, T: g.tensor(tensor.Float32, g.full(0, 3)...)}}
		}
		g.node(1)
	}
}

func count(shape []int) int {
	n, _ := tensor.NumElements(shape)
	return n
}

// withAxes is the node with its axes as an attribute before an opset and as an input from it on.
func (g *gen) withAxes(s []int, axes []int64, byInput int, leaveOut bool) {
	switch {
	case leaveOut:
		g.node(1, g.rand(s...))
	case g.since >= byInput:
		g.node(1, g.rand(s...), g.int64s(axes...))
	default:
		g.ints("axes", axes...)
		g.node(1, g.rand(s...))
	}
}

// reduction of a scatter, where the opset has one.
func (g *gen) reduction() string {
	r := []string{"none"}
	if g.since >= 16 {
		r = append(r, "add", "mul")
	}
	if g.since >= 18 {
		r = append(r, "min", "max")
	}
	v := one(g, r...)
	g.plain = g.plain || v != "none"
	if g.since >= 16 && (v != "none" || g.chance(2)) {
		g.str("reduction", v)
	}
	return v
}

// indices into a dimension of size n.
func (g *gen) indices(n int, neg bool, shape ...int) *onnx.Value {
	d := one(g, tensor.Int32, tensor.Int64)
	t := g.tensor(d, shape...)
	for i := range t.Len() {
		v := g.IntN(n)
		if neg && g.chance(2) {
			v -= n
		}
		tensor.SetFloat64At(t, i, float64(v))
	}
	return g.feed(t)
}

// places are index tuples into a tensor of shape s.
func (g *gen) places(s, shape []int) *tensor.Tensor {
	t := g.tensor(tensor.Int64, shape...)
	k := shape[len(shape)-1]
	for i := range t.Len() {
		d := s[i%k]
		tensor.Data[int64](t)[i] = int64(g.in(-d, d-1))
	}
	return t
}
