package difftest

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// TestGradientGraphs has ONNX Runtime compute gradients of what only kernels of ours differentiate otherwise, by their graphs in standard operators.
func TestGradientGraphs(t *testing.T) {
	p := newPeer(t)
	type values = []*onnx.Value
	i, is, s := onnx.IntAttr, onnx.IntsAttr, onnx.StringAttr
	ints := func(b *onnx.Builder, v ...int64) *onnx.Value { return b.Const(tensor.New(v, len(v))) }
	scalar := func(b *onnx.Builder, v int64) *onnx.Value { return b.Const(tensor.Scalar(v)) }
	at := func(b *onnx.Builder, list *onnx.Value, i int64) *onnx.Value {
		return b.Op("SequenceAt", list, scalar(b, i))
	}
	join := func(b *onnx.Builder, list *onnx.Value) *onnx.Value {
		return b.Node("ConcatFromSequence", values{list}, i("axis", 0))
	}
	// loop carries state, a list or else a tensor, through that many runs.
	loop := func(b *onnx.Builder, trips int64, state *onnx.Value, list bool, body func(s *onnx.Builder, run, state *onnx.Value) *onnx.Value) *onnx.Value {
		s := b.Sub("body")
		run := s.Input("run"+state.Name, tensor.Int64)
		on := s.Input("on"+state.Name, tensor.Bool)
		typ := &onnx.Type{Elem: tensor.Float32}
		if list {
			typ = &onnx.Type{Kind: onnx.SequenceType, Of: typ}
		}
		next := body(s, run, s.InputOf("of"+state.Name, typ))
		s.OutputOf("still"+state.Name, s.Op("Identity", on), &onnx.Type{Elem: tensor.Bool})
		s.OutputOf("next"+state.Name, next, typ)
		return b.Multi("Loop", 1, values{scalar(b, trips), nil, state}, onnx.GraphAttr("body", s.Graph()))[0]
	}
	for name, c := range map[string]struct {
		opset  int64
		shapes [][]int
		f      func(b *onnx.Builder, in values) *onnx.Value
	}{
		"Attention": {23, [][]int{{2, 4, 3, 8}, {2, 2, 5, 8}, {2, 2, 5, 6}}, func(b *onnx.Builder, in values) *onnx.Value { return b.Node("Attention", in, i("is_causal", 1)) }},
		"GridSample": {20, [][]int{{2, 3, 4, 5}, {2, 3, 2, 2}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Node("GridSample", in, s("padding_mode", "border"))
		}},
		"GridSample, cubic": {20, [][]int{{2, 3, 4, 5}, {2, 3, 2, 2}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Node("GridSample", in, s("mode", "cubic"), s("padding_mode", "reflection"))
		}},
		"AffineGrid": {20, [][]int{{2, 2, 3}}, func(b *onnx.Builder, in values) *onnx.Value { return b.Op("AffineGrid", in[0], ints(b, 2, 3, 4, 5)) }},
		"RoiAlign": {16, [][]int{{2, 2, 5, 6}}, func(b *onnx.Builder, in values) *onnx.Value {
			rois := b.Const(tensor.New([]float32{0.4, 0.3, 3.1, 2.7, 1.2, 0.1, 4.6, 3.9}, 2, 4))
			return b.Node("RoiAlign", values{in[0], rois, ints(b, 0, 1)}, i("output_height", 2), i("output_width", 3))
		}},
		"DFT": {20, [][]int{{2, 6, 1}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Node("DFT", values{in[0], scalar(b, 8)}, i("onesided", 1))
		}},
		"STFT": {17, [][]int{{2, 9, 1}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Op("STFT", in[0], scalar(b, 2), b.Const(tensor.New([]float32{0.2, 0.9, 1, 0.4})))
		}},
		"Det": {11, [][]int{{2, 3, 3}}, func(b *onnx.Builder, in values) *onnx.Value { return b.Op("Det", in[0]) }},
		"Col2Im": {18, [][]int{{2, 8, 6}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Op("Col2Im", in[0], ints(b, 3, 4), ints(b, 2, 2))
		}},
		"MaxUnpool": {11, [][]int{{1, 1, 2, 2}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Node("MaxUnpool", values{in[0], b.Const(tensor.New([]int64{5, 7, 8, 15}, 1, 1, 2, 2))}, is("kernel_shape", 2, 2), is("strides", 2, 2))
		}},
		"MaxRoiPool": {1, [][]int{{2, 2, 5, 6}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Node("MaxRoiPool", values{in[0], b.Init("rois", tensor.New([]float32{0, 0, 0, 3, 4, 1, 1, 1, 5, 4}, 2, 5))}, is("pooled_shape", 2, 2))
		}},
		"DeformConv": {19, [][]int{{1, 2, 4, 5}, {3, 2, 2, 2}, {1, 8, 3, 4}}, func(b *onnx.Builder, in values) *onnx.Value { return b.Op("DeformConv", in...) }},
		"BatchNormalization, of elements": {7, [][]int{{3, 2, 2}, {4}}, func(b *onnx.Builder, in values) *onnx.Value {
			ones := b.Init("ones", tensor.New([]float32{1, 2, 3, 4}, 4))
			return b.Node("BatchNormalization", values{in[0], in[1], ones, ones, ones}, i("spatial", 0))
		}},
		"BatchNormalization, saved statistics": {9, [][]int{{3, 2, 2}, {2}}, func(b *onnx.Builder, in values) *onnx.Value {
			ones := b.Init("ones", tensor.New([]float32{1, 2}, 2))
			outs := b.Multi("BatchNormalization", 5, values{in[0], in[1], ones, ones, ones})
			return b.Op("Add", b.Node("ReduceSum", values{b.Op("Mul", outs[0], in[0])}, is("axes", 0, 2), i("keepdims", 0)), b.Op("Mul", outs[3], outs[2]))
		}},
		"Resize, larger and smaller": {10, [][]int{{1, 2, 4, 5}}, func(b *onnx.Builder, in values) *onnx.Value {
			return b.Op("Resize", in[0], b.Const(tensor.New([]float32{1, 1, 1.7, 0.6}, 4)))
		}},
		"SequenceMap": {17, [][]int{{2, 3}, {3}}, func(b *onnx.Builder, in values) *onnx.Value {
			sub := b.Sub("element")
			x, w := sub.Input("ex", tensor.Float32, -1, 3), sub.Input("ew", tensor.Float32, 3)
			sub.OutputOf("m", sub.Op("Sin", sub.Op("Mul", x, w)), &onnx.Type{Elem: tensor.Float32})
			return join(b, b.Node("SequenceMap", values{b.Node("SplitToSequence", in[:1]), in[1]}, onnx.GraphAttr("body", sub.Graph())))
		}},
		"Loop, a list of steps": {17, [][]int{{2}, {2}}, func(b *onnx.Builder, in values) *onnx.Value {
			return join(b, loop(b, 3, b.Op("SequenceConstruct", in[0]), true, func(s *onnx.Builder, run, list *onnx.Value) *onnx.Value {
				return s.Op("SequenceInsert", list, s.Op("Sin", s.Op("Mul", at(s, list, -1), in[1])))
			}))
		}},
		"Loop, a list that is read whole": {17, [][]int{{2}}, func(b *onnx.Builder, in values) *onnx.Value {
			return join(b, loop(b, 3, b.Op("SequenceConstruct", in[0]), true, func(s *onnx.Builder, run, list *onnx.Value) *onnx.Value {
				all := join(s, list)
				return s.Op("SequenceInsert", list, s.Op("Mul", all, s.Op("Sin", all)))
			}))
		}},
		"Loop, lists in loops in each other": {17, [][]int{{2}, {2}}, func(b *onnx.Builder, in values) *onnx.Value {
			return loop(b, 2, in[0], false, func(s *onnx.Builder, run, h *onnx.Value) *onnx.Value {
				inner := loop(s, 2, s.Op("SequenceConstruct", h), true, func(u *onnx.Builder, run, list *onnx.Value) *onnx.Value {
					all := join(u, list)
					pieces := u.Node("SplitToSequence", values{u.Op("Sin", u.Op("Mul", all, all)), scalar(u, 2)}, i("axis", 0))
					return u.Op("SequenceInsert", list, u.Op("Mul", at(u, pieces, 0), in[1]))
				})
				return s.Op("Add", h, at(s, inner, -1))
			})
		}},
		"Loop, sizes that change": {17, [][]int{{1}, {2}}, func(b *onnx.Builder, in values) *onnx.Value {
			return loop(b, 2, in[0], false, func(s *onnx.Builder, run, h *onnx.Value) *onnx.Value {
				longer := loop(s, 2, h, false, func(u *onnx.Builder, run, k *onnx.Value) *onnx.Value {
					return u.Node("Concat", values{u.Op("Sin", k), u.Op("Mul", in[1], u.Node("ReduceMean", values{k}, is("axes", 0), i("keepdims", 0)))}, i("axis", 0))
				})
				return s.Op("Mul", longer, longer)
			})
		}},
		"Scan, pieces in each step": {17, [][]int{{4}, {4, 3}}, func(b *onnx.Builder, in values) *onnx.Value {
			s := b.Sub("body")
			h, x := s.Input("h", tensor.Float32, 4), s.Input("x", tensor.Float32, 4)
			pieces := s.Node("SplitToSequence", values{s.Op("Mul", h, x), ints(s, 1, 3)}, i("axis", 0))
			y := s.Op("Mul", join(s, pieces), at(s, pieces, 0))
			s.OutputOf("next", s.Op("Cos", y), &onnx.Type{Elem: tensor.Float32})
			s.OutputOf("part", s.Op("Mul", y, x), &onnx.Type{Elem: tensor.Float32})
			return b.Multi("Scan", 2, in, onnx.GraphAttr("body", s.Graph()), i("num_scan_inputs", 1), is("scan_input_axes", 1), is("scan_input_directions", 1),
				is("scan_output_axes", 1), is("scan_output_directions", 1))[1]
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := onnx.NewBuilder("g", c.opset)
			r := rand.New(rand.NewPCG(1, 2))
			var in values
			inputs, batch := map[string]*tensor.Tensor{}, map[string]tensor.Value{}
			for k, shape := range c.shapes {
				x, _ := tensor.Zeros(tensor.Float32, shape...)
				for j := range x.Len() {
					tensor.SetFloat64At(x, j, 2*r.Float64()-1)
				}
				name := string(rune('a' + k))
				in = append(in, b.InputOf(name, onnx.TypeOfTensor(x)))
				inputs[name], batch[name] = x, x
			}
			y := c.f(b, in)
			b.OutputOf("y", b.Op("Mul", y, y), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			want, err := finetune.OutputGradients(context.Background(), m, batch, "y", false, false)
			if err != nil {
				t.Fatal(err)
			}
			graph, err := finetune.GradientGraph(m, "y", false, false)
			if err != nil {
				t.Fatal(err)
			}
			file, err := onnx.Encode(graph)
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.run(file, inputs, nil)
			if err != nil {
				t.Fatal(err)
			}
			for name := range inputs {
				w, g := want[name], got[finetune.GradientOf+name]
				worst, top := 0.0, 0.1
				for j := range w.Len() {
					worst, top = max(worst, math.Abs(tensor.Float64At(w, j)-tensor.Float64At(g, j))), max(top, math.Abs(tensor.Float64At(w, j)))
				}
				if !(worst <= 1e-4*top) {
					t.Errorf("the gradient of %s is %v from ONNX Runtime's, its greatest element is %v", name, worst, top)
				}
			}
		})
	}
}
