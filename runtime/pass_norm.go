package runtime

import (
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// rooted is a/√(t), in the ways in which exporters write it.
func rooted(a, t string) string {
	return "(Div(" + a + ", Sqrt(" + t + ")) | Mul(" + a + ", Reciprocal(Sqrt(" + t + ")) | Div(1, Sqrt(" + t + ")) | Pow(" + t + ", -0.5)))"
}

var (
	centred   = rooted("d:Sub(x, mean:ReduceMean(x, …))", "Add(variance:ReduceMean(Pow(d, 2) | Mul(d, d), …), eps)")
	layerNorm = parsePatterns("Add(Mul("+centred+", scale), bias)", "Mul("+centred+", scale)", centred)

	scaledByRMS = rooted("x", "Add(variance:ReduceMean(Pow(x, 2) | Mul(x, x), …), eps)")
	rmsNorm     = parsePatterns("Mul(Cast?("+scaledByRMS+"), scale)", "Cast?("+scaledByRMS+")")

	groupNorm = parsePatterns("Add(Mul(Reshape(norm:InstanceNormalization(Reshape(x, split), one, zero), whole), scale), bias)")
)

// norms finds LayerNormalization, RMSNormalization and GroupNormalization in the spellings of exporters to opsets without them.
func norms(r *rewriter) {
	r.rewrite(layerNorm, func(m *match) *onnx.Node {
		axis, eps, ok := m.normalized()
		if mean := m.node("mean"); !ok || !slices.Equal(r.axes(mean), r.axes(m.node("variance"))) || !r.keepsDims(mean) {
			return nil
		}
		x, bias := m.values["x"], m.values["bias"]
		scale := m.rowOf(x, axis)
		if scale == nil || bias != nil && !r.isRowOf(bias, x, axis) {
			return nil
		}
		return node(17, "LayerNormalization", []*onnx.Value{x, scale, bias}, onnx.IntAttr("axis", axis), onnx.FloatAttr("epsilon", eps))
	})
	r.rewrite(rmsNorm, func(m *match) *onnx.Node {
		axis, eps, ok := m.normalized()
		if !ok {
			return nil
		}
		// The sum may be of float32s that were something narrower, which is what the operator itself does.
		x, out := m.values["x"], m.nodes[0].Outputs[0]
		if r.infos[x].DType != r.infos[out].DType {
			cast := x.Def()
			if !is(cast, "Cast") || r.infos[x].DType != tensor.Float32 || r.infos[cast.Inputs[0]].DType != r.infos[out].DType {
				return nil
			}
			x = cast.Inputs[0]
		}
		scale := m.rowOf(x, axis)
		if scale == nil {
			return nil
		}
		return node(23, "RMSNormalization", []*onnx.Value{x, scale}, onnx.IntAttr("axis", axis), onnx.FloatAttr("epsilon", eps))
	})
	r.rewrite(groupNorm, func(m *match) *onnx.Node {
		n, x := m.node("norm"), m.values["x"]
		whole, parts := r.infos[x], r.infos[n.Inputs[0]]
		if !r.float(x) || whole.Rank() < 3 || parts.Rank() != 3 || !whole.Shape[1].Known() || !parts.Shape[1].Known() || parts.Shape[1].N == 0 {
			return nil
		}
		channels, groups := whole.Shape[1].N, parts.Shape[1].N
		if channels%groups != 0 || !r.sameFirst(x, n.Inputs[0], m.values["split"]) || !r.isShapeOf(m.values["whole"], x) ||
			!r.all(m.values["one"], 1) || !r.all(m.values["zero"], 0) {
			return nil
		}
		scale, bias := r.channelsOf(m.values["scale"], channels, whole.Rank()), r.channelsOf(m.values["bias"], channels, whole.Rank())
		if scale == nil || bias == nil {
			return nil
		}
		return node(21, "GroupNormalization", []*onnx.Value{x, r.init(m.values["scale"], scale), r.init(m.values["bias"], bias)},
			onnx.IntAttr("num_groups", int64(groups)), onnx.FloatAttr("epsilon", n.Float("epsilon", 1e-5)))
	})
}

// normalized is the first of the axes, all those to the end, that a match's variance is taken over, and what is added to it.
func (m *match) normalized() (axis int64, eps float32, ok bool) {
	n := m.node("variance")
	rank := m.infos[m.values["x"]].Rank()
	axes := m.axes(n)
	if !m.float(m.values["x"]) || len(axes) == 0 || !m.keepsDims(n) {
		return 0, 0, false
	}
	for i, a := range axes {
		if a != rank-len(axes)+i {
			return 0, 0, false
		}
	}
	e, ok := m.scalar(m.values["eps"])
	t := m.constant(m.values["eps"])
	return int64(axes[0]), float32(e), ok && t.Rank() <= rank
}

// rowOf is the match's scale, if it is one for all rows of x from axis on, or ones if it has none; nil if neither can be.
func (m *match) rowOf(x *onnx.Value, axis int64) *onnx.Value {
	if v := m.values["scale"]; v != nil {
		if !m.isRowOf(v, x, axis) {
			return nil
		}
		return v
	}
	info := m.infos[x]
	shape, ok := ops.Tensor(info.DType, info.Shape[axis:]...).Static()
	if !ok {
		return nil
	}
	one, err := tensor.Zeros(info.DType, shape...)
	if err != nil {
		return nil
	}
	for i := range one.Len() {
		tensor.SetFloat64At(one, i, 1)
	}
	return m.init(x, one)
}

// isRowOf reports whether v has the type of x, and its shape from axis on.
func (r *rewriter) isRowOf(v, x *onnx.Value, axis int64) bool {
	a, b := r.infos[v], r.infos[x]
	return a.Kind == onnx.TensorType && a.Ranked && a.DType == b.DType && slices.EqualFunc(a.Shape, b.Shape[axis:], ops.Dim.Same)
}

// axes is the axes that a reduction is over, in their order, nil if they are not known.
func (r *rewriter) axes(n *onnx.Node) []int {
	rank := r.infos[n.Inputs[0]].Rank()
	list := n.Ints("axes", nil)
	if v := n.Input(1); v != nil {
		t := r.constant(v)
		if t == nil {
			return nil
		}
		list, _ = t.Int64s()
	}
	if len(list) == 0 || rank < 0 {
		return nil
	}
	axes, err := ops.NormAxes(list, rank)
	if err != nil {
		return nil
	}
	slices.Sort(axes)
	return axes
}

func (r *rewriter) keepsDims(n *onnx.Node) bool { return n.Int("keepdims", 1) == 1 }

// all reports whether v is a constant whose elements all are x.
func (r *rewriter) all(v *onnx.Value, x float64) bool {
	t := r.constant(v)
	if t == nil || !t.DType().IsFloat() {
		return false
	}
	for i := range t.Len() {
		if tensor.Float64At(t, i) != x {
			return false
		}
	}
	return true
}

// sameFirst reports whether the reshape y of x by shape has x's first dimension.
func (r *rewriter) sameFirst(x, y, shape *onnx.Value) bool {
	if t := r.constant(shape); t != nil {
		if d, err := t.Int64s(); err == nil && len(d) > 0 && d[0] == 0 {
			return true
		}
	}
	a, b := r.infos[x], r.infos[y]
	return a.Rank() > 0 && b.Rank() > 0 && a.Shape[0].Same(b.Shape[0])
}

// isShapeOf reports whether v is the shape of x.
func (r *rewriter) isShapeOf(v, x *onnx.Value) bool {
	if d := v.Def(); is(d, "Shape") && d.Inputs[0] == x && d.Int("start", 0) == 0 && d.Attr("end") == nil {
		return true
	}
	t := r.constant(v)
	shape, ok := r.infos[x].Static()
	if t == nil || !ok {
		return false
	}
	d, err := t.Int64s()
	return err == nil && slices.EqualFunc(d, shape, func(a int64, b int) bool { return a == int64(b) })
}

// channelsOf is a constant that has a number for each channel of a tensor of that rank, as a vector of them; nil if it is none.
func (r *rewriter) channelsOf(v *onnx.Value, channels, rank int) *tensor.Tensor {
	t := r.constant(v)
	if t == nil || t.Len() != channels || t.Rank() > rank {
		return nil
	}
	for i, d := range t.Shape() {
		if want := 1; d != want && (i != t.Rank()-rank+1 || d != channels) {
			return nil
		}
	}
	if channels > 1 && t.Rank() < rank-1 {
		return nil
	}
	flat, err := t.Reshape(channels)
	if err != nil {
		return nil
	}
	return flat
}
