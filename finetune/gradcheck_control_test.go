package finetune

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() { gradFamilies = append(gradFamilies, controlCases) }

// controlCases is control flow and sequences, in graphs.
func controlCases(add addCase) {
	type values = []*onnx.Value
	type builder = *onnx.Builder
	scalar := func(b builder, v int64) *onnx.Value { return b.Const(tensor.Scalar(v)) }
	truth := func(b builder, v bool) *onnx.Value { return b.Const(tensor.Scalar(v)) }
	out := func(b builder, name string, vs ...*onnx.Value) {
		for _, v := range vs {
			b.OutputOf(name+v.Name, v, nil)
		}
	}
	sequenceType := &onnx.Type{Kind: onnx.SequenceType, Of: &onnx.Type{Elem: tensor.Float64}}
	graph := func(ops, name string, f func(b builder, in values) values, in ...*gradInput) *gradCase {
		c := add(ops, 21, name, nil, in...)
		c.graph = f
		return c
	}
	// loop runs body, which gives the condition, the states and what is scanned.
	loop := func(b builder, trips int64, cond *onnx.Value, states values, outs int, body func(s builder, i *onnx.Value, states values) values) values {
		s := b.Sub("body")
		iter := s.Input(b.Graph().Name+"iter"+states[0].Name, tensor.Int64)
		s.Input(b.Graph().Name+"cond"+states[0].Name, tensor.Bool)
		var in values
		for _, v := range states {
			var ty *onnx.Type
			if v.Type != nil {
				ty = &onnx.Type{Kind: v.Type.Kind, Elem: v.Type.Elem, Of: v.Type.Of}
			}
			in = append(in, s.InputOf(b.Graph().Name+"in"+v.Name, ty))
		}
		out(s, "of"+b.Graph().Name, body(s, iter, in)...)
		var limit *onnx.Value
		if trips >= 0 {
			limit = scalar(b, trips)
		}
		return b.Multi("Loop", outs, append(values{limit, cond}, states...), onnx.GraphAttr("body", s.Graph()))
	}
	branch := func(b builder, cond *onnx.Value, outs int, then, other func(s builder) values) values {
		t, e := b.Sub("then"), b.Sub("else")
		out(t, "t", then(t)...)
		out(e, "e", other(e)...)
		return b.Multi("If", outs, values{cond}, onnx.GraphAttr("then_branch", t.Graph()), onnx.GraphAttr("else_branch", e.Graph()))
	}
	sum := func(b builder, v *onnx.Value) *onnx.Value {
		return b.Node("ReduceSum", values{v}, onnx.IntAttr("keepdims", 0))
	}

	for _, outs := range []int{1, 2} {
		graph("SequenceMap", fmt.Sprint("with a tensor, a sequence and a capture, outputs: ", outs), func(b builder, in values) values {
			first, second := b.Node("SplitToSequence", in[:1]), b.Op("SequenceConstruct", in[1], in[2])
			sub := b.Sub("element")
			x, y, w := sub.Input("ex", tensor.Float64, nil, nil), sub.Input("ey", tensor.Float64, nil), sub.Input("ew", tensor.Float64, nil)
			out(sub, "m", sub.Op("Mul", sub.Op("Mul", x, y), in[3]), sub.Op("Sin", sub.Op("Add", y, w)))
			ss := b.Multi("SequenceMap", outs, values{first, second, in[3]}, onnx.GraphAttr("body", sub.Graph()))
			ys := values{b.Node("ConcatFromSequence", ss[:1], onnx.IntAttr("axis", 0))}
			if outs == 2 {
				ys = append(ys, b.Op("SequenceAt", ss[1], scalar(b, 1)))
			}
			return ys
		}, signed(2, 3), signed(3), signed(3), signed(3))
	}
	// The condition hangs on a shape: the other branch's fit nothing outside.
	graph("If", "of another rank, in a loop", func(b builder, in values) values {
		return loop(b, 2, truth(b, true), values{in[1]}, 1, func(s builder, _ *onnx.Value, states values) values {
			h := s.Op("Mul", in[0], states[0])
			one := s.Op("Equal", s.Op("Gather", s.Op("Shape", h), scalar(s, 1)), scalar(s, 1))
			axis := s.Const(tensor.New([]int64{1}, 1))
			h = branch(s, one, 1, func(s builder) values { return values{s.Op("Squeeze", h, axis)} }, func(s builder) values { return values{s.Op("Identity", h)} })[0]
			return values{truth(s, true), s.Op("Unsqueeze", s.Op("Softmax", h), axis)}
		})
	}, signed(2, 1, 3), signed(2, 1, 3))
	for _, taken := range []bool{true, false} {
		graph("If", map[bool]string{true: "then", false: "else"}[taken], func(b builder, in values) values {
			return branch(b, truth(b, taken), 2, func(s builder) values {
				h := s.Op("Tanh", s.Op("MatMul", in[0], in[1]))
				return values{s.Op("Mul", h, h), s.Op("Exp", in[2])}
			}, func(s builder) values {
				return values{s.Op("Sigmoid", s.Op("MatMul", in[0], in[1])), s.Op("Identity", in[2])}
			})
		}, signed(2, 3), signed(3, 2), signed(2))
		graph("If", map[bool]string{true: "branch that gives what it captures", false: "branch that ignores it"}[taken], func(b builder, in values) values {
			return branch(b, truth(b, taken), 1, func(s builder) values { return values{s.Op("Identity", in[0])} },
				func(s builder) values { return values{s.Const(tensor.New([]float64{1, 2}))} })
		}, signed(2))
	}
	graph("If", "nested, on data", func(b builder, in values) values {
		x := b.Op("Mul", in[0], in[0])
		return branch(b, b.Op("Greater", sum(b, x), b.Const(tensor.Scalar(0.1))), 1, func(s builder) values {
			y := s.Op("Mul", x, in[1])
			inner := branch(s, s.Op("Less", sum(s, y), s.Const(tensor.Scalar(1e9))), 1, func(u builder) values {
				return values{u.Op("Mul", u.Op("Sin", y), x)}
			}, func(u builder) values { return values{u.Op("Neg", y)} })
			return values{s.Op("Add", inner[0], y)}
		}, func(s builder) values { return values{s.Op("Neg", x)} })
	}, signed(3), signed(3))

	step := func(s builder, w, u, h, x *onnx.Value) *onnx.Value {
		return s.Op("Tanh", s.Op("Add", s.Op("MatMul", h, w), s.Op("MatMul", x, u)))
	}
	for _, trips := range []int64{0, 1, 4} {
		graph("Loop", "recurrent, weights captured", func(b builder, in values) values {
			return loop(b, trips, nil, in[:1], 2, func(s builder, i *onnx.Value, h values) values {
				x := s.Node("Gather", values{in[3], i}, onnx.IntAttr("axis", 0))
				n := step(s, in[1], in[2], h[0], x)
				return values{truth(s, true), n, s.Op("Mul", n, n)}
			})
		}, signed(2, 3), signed(3, 3), signed(2, 3), signed(4, 2, 2))
	}
	graph("Loop", "ends by its condition", func(b builder, in values) values {
		return loop(b, -1, truth(b, true), in[:1], 1, func(s builder, i *onnx.Value, h values) values {
			n := s.Op("Mul", h[0], in[1])
			return values{s.Op("Greater", sum(s, s.Op("Abs", n)), s.Const(tensor.Scalar(0.4))), n}
		})
	}, uniform(1, 2, 2), uniform(0.4, 0.6, 2))
	graph("Loop", "scans alone, nothing carried moves", func(b builder, in values) values {
		count := loop(b, 3, nil, values{scalar(b, 1)}, 2, func(s builder, i *onnx.Value, h values) values {
			f := s.Node("Cast", values{h[0]}, onnx.IntAttr("to", int64(tensor.Float64)))
			return values{truth(s, true), s.Op("Add", h[0], h[0]), s.Op("Pow", in[0], f)}
		})
		return count[1:]
	}, uniform(0.5, 1.5, 2))
	graph("Loop", "states swap and pass through", func(b builder, in values) values {
		return loop(b, 3, nil, in[:3], 3, func(s builder, i *onnx.Value, h values) values {
			return values{truth(s, true), s.Op("Mul", h[1], h[2]), s.Op("Sin", h[0]), s.Op("Identity", h[2])}
		})
	}, signed(2), signed(2), signed(2))
	graph("Loop", "state that grows", func(b builder, in values) values {
		return loop(b, 3, nil, in[:1], 1, func(s builder, i *onnx.Value, h values) values {
			return values{truth(s, true), s.Node("Concat", values{h[0], s.Op("Mul", in[1], s.Op("ReduceMean", h[0]))}, onnx.IntAttr("axis", 0))}
		})
	}, signed(1), signed(2))
	graph("Loop", "nested", func(b builder, in values) values {
		return loop(b, 2, nil, in[:1], 1, func(s builder, i *onnx.Value, h values) values {
			inner := loop(s, 3, nil, h[:1], 2, func(u builder, j *onnx.Value, k values) values {
				n := u.Op("Sin", u.Op("Mul", k[0], in[1]))
				return values{truth(u, true), n, n}
			})
			return values{truth(s, true), s.Op("Add", inner[0], sum(s, inner[1]))}
		})
	}, signed(2), signed(2))
	graph("Loop If", "branch within", func(b builder, in values) values {
		return loop(b, 4, nil, in[:1], 1, func(s builder, i *onnx.Value, h values) values {
			even := s.Op("Equal", s.Op("Mod", i, scalar(s, 2)), scalar(s, 0))
			n := branch(s, even, 1, func(u builder) values { return values{u.Op("Mul", h[0], in[1])} },
				func(u builder) values { return values{u.Op("Sin", u.Op("Add", h[0], in[1]))} })
			return values{truth(s, true), n[0]}
		})
	}, signed(2), signed(2))
	graph("If Loop", "loop within", func(b builder, in values) values {
		return branch(b, truth(b, true), 1, func(s builder) values {
			return loop(s, 3, nil, in[:1], 1, func(u builder, i *onnx.Value, h values) values {
				return values{truth(u, true), u.Op("Mul", u.Op("Cos", h[0]), in[1])}
			})
		}, func(s builder) values { return values{s.Op("Neg", in[0])} })
	}, signed(2), signed(2))

	scan := func(b builder, states, inputs values, outs int, body func(s builder, h, x values) values, attrs ...*onnx.Attribute) values {
		s := b.Sub("body")
		var h, x values
		for _, v := range states {
			h = append(h, s.InputOf("h"+v.Name, &onnx.Type{Elem: tensor.Float64}))
		}
		for _, v := range inputs {
			x = append(x, s.InputOf("x"+v.Name, &onnx.Type{Elem: tensor.Float64}))
		}
		out(s, "of", body(s, h, x)...)
		attrs = append(attrs, onnx.GraphAttr("body", s.Graph()), onnx.IntAttr("num_scan_inputs", int64(len(inputs))))
		return b.Multi("Scan", outs, slices.Concat(states, inputs), attrs...)
	}
	graph("Scan", "recurrent", func(b builder, in values) values {
		return scan(b, in[:1], in[3:], 2, func(s builder, h, x values) values {
			n := step(s, in[1], in[2], h[0], x[0])
			return values{n, s.Op("Mul", n, n)}
		})
	}, signed(2, 3), signed(3, 3), signed(2, 3), signed(4, 2, 2))
	graph("Scan", "directions and axes", func(b builder, in values) values {
		return scan(b, in[:1], in[1:], 3, func(s builder, h, x values) values {
			n := s.Op("Sin", s.Op("Add", s.Op("Mul", h[0], x[0]), x[1]))
			return values{n, n, s.Op("Mul", n, x[1])}
		}, onnx.IntsAttr("scan_input_axes", 1, -1), onnx.IntsAttr("scan_input_directions", 0, 1),
			onnx.IntsAttr("scan_output_axes", -1, 0), onnx.IntsAttr("scan_output_directions", 1, 0))
	}, signed(2), signed(2, 3), signed(2, 3))
	graph("Scan", "no state, an input that does not move", func(b builder, in values) values {
		return scan(b, nil, in, 1, func(s builder, h, x values) values { return values{s.Op("Mul", x[0], x[1])} })
	}, signed(3, 2), fixed(tensor.New([]float64{1, 2, 3})))

	for _, lengths := range []bool{false, true} {
		c := graph("Scan", fmt.Sprint("of a batch, lengths: ", lengths), func(b builder, in values) values {
			s := b.Sub("body")
			h, x, y := s.InputOf("h", &onnx.Type{Elem: tensor.Float64}), s.InputOf("x", &onnx.Type{Elem: tensor.Float64}), s.InputOf("y", &onnx.Type{Elem: tensor.Float64})
			n := s.Op("Tanh", s.Op("Add", s.Op("MatMul", h, in[3]), s.Op("Mul", x, y)))
			out(s, "of", n, s.Op("Mul", n, n))
			var lens *onnx.Value
			if lengths {
				lens = b.Const(tensor.New([]int64{2, 3}))
			}
			return b.Multi("Scan", 2, values{lens, in[0], in[1], in[2]}, onnx.GraphAttr("body", s.Graph()), onnx.IntAttr("num_scan_inputs", 2), onnx.IntsAttr("directions", 0, 1))
		}, signed(2, 1, 3), signed(2, 3, 1, 3), signed(2, 3, 1, 3), signed(3, 3))
		c.opset = 8
	}

	scaled := graph("Resize", "by scales that are computed", func(b builder, in values) values {
		// Of the sizes alone: 2 and 0.5.
		n := b.Node("Cast", values{b.Op("Shape", in[0])}, onnx.IntAttr("to", int64(tensor.Float32)))
		return values{b.Op("Resize", in[0], b.Op("Div", n, b.Const(tensor.New([]float32{1, 1, 2, 8}, 4))))}
	}, signed(1, 1, 4, 4))
	scaled.opset = 10

	empty := func(b builder) *onnx.Value {
		return b.Node("SequenceEmpty", nil, onnx.IntAttr("dtype", int64(tensor.Float64)))
	}
	graph("SequenceConstruct SequenceAt", "elements of two shapes, one read twice, one never", func(b builder, in values) values {
		s := b.Op("SequenceConstruct", in[0], in[1], in[0])
		return values{b.Op("Mul", b.Op("SequenceAt", s, scalar(b, 0)), b.Op("SequenceAt", s, scalar(b, 0))), b.Op("SequenceAt", s, scalar(b, -1))}
	}, signed(2), signed(3))
	for name, at := range map[string]int64{"front": 0, "second": 1, "from the end": -1} {
		graph("SequenceInsert SequenceErase SequenceConstruct ConcatFromSequence", name, func(b builder, in values) values {
			s := b.Op("SequenceInsert", b.Op("SequenceConstruct", in[0], in[1]), in[2], scalar(b, at))
			return values{b.Node("ConcatFromSequence", values{s}, onnx.IntAttr("axis", 0)),
				b.Node("ConcatFromSequence", values{b.Op("SequenceErase", s, scalar(b, 1))}, onnx.IntAttr("axis", 0)),
				b.Node("ConcatFromSequence", values{b.Op("SequenceErase", s)}, onnx.IntAttr("axis", -1))}
		}, signed(2), signed(3), signed(1))
	}
	graph("ConcatFromSequence SequenceInsert", "stacked", func(b builder, in values) values {
		s := b.Op("SequenceInsert", b.Op("SequenceInsert", empty(b), in[0]), in[1])
		return values{b.Node("ConcatFromSequence", values{s}, onnx.IntAttr("axis", 1), onnx.IntAttr("new_axis", 1)),
			b.Node("ConcatFromSequence", values{s}, onnx.IntAttr("axis", -1), onnx.IntAttr("new_axis", 1))}
	}, signed(2, 3), signed(2, 3))
	graph("SplitToSequence SequenceAt", "sizes, one piece unread", func(b builder, in values) values {
		s := b.Node("SplitToSequence", values{in[0], b.Const(tensor.New([]int64{1, 3, 1}))}, onnx.IntAttr("axis", 1))
		return values{b.Op("SequenceAt", s, scalar(b, 1)), b.Op("SequenceAt", s, scalar(b, 2))}
	}, signed(2, 5))
	graph("SplitToSequence SequenceAt", "ones without their axis", func(b builder, in values) values {
		s := b.Node("SplitToSequence", values{in[0]}, onnx.IntAttr("axis", 1), onnx.IntAttr("keepdims", 0))
		return values{b.Op("SequenceAt", s, scalar(b, 1))}
	}, signed(2, 3))
	graph("Loop SequenceInsert ConcatFromSequence", "list of the steps' states", func(b builder, in values) values {
		list := empty(b)
		list.Type = sequenceType
		r := loop(b, 3, nil, values{in[0], list}, 2, func(s builder, i *onnx.Value, h values) values {
			n := s.Op("Sin", s.Op("Mul", h[0], in[1]))
			return values{truth(s, true), n, s.Op("SequenceInsert", h[1], n)}
		})
		return values{r[0], b.Node("ConcatFromSequence", values{r[1]}, onnx.IntAttr("axis", 0), onnx.IntAttr("new_axis", 1))}
	}, signed(2), signed(2))
	graph("Loop SplitToSequence SequenceAt", "list read in the loop", func(b builder, in values) values {
		list := b.Node("SplitToSequence", values{in[1]}, onnx.IntAttr("axis", 0), onnx.IntAttr("keepdims", 0))
		return loop(b, 3, nil, in[:1], 1, func(s builder, i *onnx.Value, h values) values {
			return values{truth(s, true), s.Op("Sin", s.Op("Mul", h[0], s.Op("SequenceAt", list, i)))}
		})
	}, signed(2), signed(3, 2))
	graph("If SequenceConstruct SequenceAt", "branches that give lists", func(b builder, in values) values {
		s := branch(b, truth(b, true), 1, func(s builder) values { return values{s.Op("SequenceConstruct", in[0], s.Op("Sin", in[1]))} },
			func(s builder) values { return values{s.Op("SequenceConstruct", in[1])} })
		return values{b.Op("SequenceAt", s[0], scalar(b, 1))}
	}, signed(2), signed(2))
	graph("Optional OptionalGetElement", "there and back", func(b builder, in values) values {
		o := b.Op("Optional", b.Op("Sin", in[0]))
		return values{b.Op("Mul", b.Op("OptionalGetElement", o), b.Op("OptionalGetElement", o))}
	}, signed(2))

	// Lists that each run has, and lists of lists.
	join := func(b builder, list *onnx.Value) *onnx.Value {
		return b.Node("ConcatFromSequence", values{list}, onnx.IntAttr("axis", 0))
	}
	for _, trips := range []int64{0, 3} {
		graph("Loop SequenceInsert ConcatFromSequence", fmt.Sprint("a list that is read whole in each step, steps: ", trips), func(b builder, in values) values {
			list := b.Op("SequenceInsert", empty(b), in[0])
			list.Type = sequenceType
			return values{join(b, loop(b, trips, nil, values{list}, 1, func(s builder, i *onnx.Value, h values) values {
				all := join(s, h[0])
				return values{truth(s, true), s.Op("SequenceInsert", h[0], s.Op("Mul", all, s.Op("ReduceMean", s.Op("Mul", all, all))))}
			})[0])}
		}, signed(2))
	}
	graph("Loop SequenceAt SequenceErase SequenceInsert", "a stack", func(b builder, in values) values {
		list := b.Op("SequenceConstruct", in[0], in[1], in[2])
		list.Type = sequenceType
		return values{b.Op("SequenceAt", loop(b, 2, nil, values{list}, 1, func(s builder, i *onnx.Value, h values) values {
			top, next := s.Op("SequenceAt", h[0], scalar(s, -1)), s.Op("SequenceAt", h[0], scalar(s, -2))
			rest := s.Op("SequenceErase", s.Op("SequenceErase", h[0]))
			return values{truth(s, true), s.Op("SequenceInsert", rest, s.Op("Sin", s.Op("Mul", sum(s, top), next)))}
		})[0], scalar(b, 0))}
	}, signed(1), signed(2), signed(3))
	graph("Loop SplitToSequence SequenceAt ConcatFromSequence", "pieces within, of other sizes in each step", func(b builder, in values) values {
		return loop(b, 3, nil, in[:1], 1, func(s builder, i *onnx.Value, h values) values {
			pieces := s.Node("SplitToSequence", values{s.Op("Mul", h[0], h[0]), scalar(s, 2)}, onnx.IntAttr("axis", 0))
			return values{truth(s, true), s.Op("Sin", s.Node("Concat", values{join(s, pieces), s.Op("SequenceAt", pieces, scalar(s, 0))}, onnx.IntAttr("axis", 0)))}
		})
	}, signed(3))
	graph("Scan SplitToSequence SequenceAt ConcatFromSequence", "pieces within", func(b builder, in values) values {
		return scan(b, in[:1], in[1:], 2, func(s builder, h, x values) values {
			pieces := s.Node("SplitToSequence", values{s.Op("Mul", h[0], x[0]), s.Const(tensor.New([]int64{1, 3}))}, onnx.IntAttr("axis", 0))
			y := s.Op("Mul", join(s, pieces), s.Op("SequenceAt", pieces, scalar(s, 0)))
			return values{s.Op("Cos", y), s.Op("Mul", y, x[0])}
		}, onnx.IntsAttr("scan_input_axes", 1), onnx.IntsAttr("scan_input_directions", 1), onnx.IntsAttr("scan_output_axes", 1), onnx.IntsAttr("scan_output_directions", 1))
	}, signed(4), signed(4, 3))
	graph("Loop SplitToSequence SequenceInsert ConcatFromSequence", "lists in loops in each other", func(b builder, in values) values {
		return loop(b, 2, nil, in[:1], 1, func(s builder, i *onnx.Value, h values) values {
			list := s.Op("SequenceInsert", empty(s), h[0])
			list.Type = sequenceType
			inner := loop(s, 2, nil, values{list}, 1, func(u builder, j *onnx.Value, k values) values {
				all := join(u, k[0])
				pieces := u.Node("SplitToSequence", values{u.Op("Sin", u.Op("Mul", all, all)), scalar(u, 2)}, onnx.IntAttr("axis", 0))
				return values{truth(u, true), u.Op("SequenceInsert", k[0], u.Op("Mul", u.Op("SequenceAt", pieces, scalar(u, 0)), in[1]))}
			})
			return values{truth(s, true), s.Op("Add", h[0], s.Op("ReduceMean", join(s, inner[0])))}
		})
	}, signed(2), signed(2))
	graph("Loop", "sizes that change in loops in each other", func(b builder, in values) values {
		return loop(b, 2, nil, in[:1], 1, func(s builder, i *onnx.Value, h values) values {
			inner := loop(s, 2, nil, h[:1], 1, func(u builder, j *onnx.Value, k values) values {
				return values{truth(u, true), u.Node("Concat", values{u.Op("Sin", k[0]), u.Op("Mul", in[1], u.Op("ReduceMean", k[0]))}, onnx.IntAttr("axis", 0))}
			})
			return values{truth(s, true), s.Op("Mul", inner[0], inner[0])}
		})
	}, signed(1), signed(2))
	for _, first := range []bool{true, false} {
		graph("Loop If SequenceInsert ConcatFromSequence", fmt.Sprint("lists in the branches of a loop's runs: ", first), func(b builder, in values) values {
			return loop(b, 3, nil, in[:1], 1, func(s builder, i *onnx.Value, h values) values {
				even := s.Op("Equal", s.Op("Mod", i, scalar(s, 2)), scalar(s, 0))
				if !first {
					even = s.Op("Not", even)
				}
				list := s.Op("SequenceConstruct", h[0], in[1])
				list.Type = sequenceType
				n := branch(s, even, 1, func(u builder) values {
					r := loop(u, 2, nil, values{list}, 1, func(v builder, j *onnx.Value, k values) values {
						all := join(v, k[0])
						return values{truth(v, true), v.Op("SequenceInsert", k[0], v.Op("Mul", all, all))}
					})
					return values{u.Op("Mul", h[0], u.Op("ReduceMean", join(u, r[0])))}
				}, func(u builder) values {
					return values{u.Op("Mul", u.Op("Sin", u.Op("SequenceAt", list, scalar(u, 1))), h[0])}
				})
				return values{truth(s, true), n[0]}
			})
		}, signed(2), signed(2))
	}
	graph("Loop SequenceMap SequenceConstruct ConcatFromSequence", "a map in each step", func(b builder, in values) values {
		return loop(b, 2, nil, in[:1], 1, func(s builder, i *onnx.Value, h values) values {
			sub := s.Sub("element")
			x := sub.Input("ex", tensor.Float64, nil)
			out(sub, "m", sub.Op("Mul", sub.Op("Sin", x), h[0]))
			mapped := s.Node("SequenceMap", values{s.Op("SequenceConstruct", h[0], s.Op("Mul", h[0], in[1]))}, onnx.GraphAttr("body", sub.Graph()))
			return values{truth(s, true), s.Op("Add", s.Op("SequenceAt", mapped, scalar(s, 0)), s.Op("SequenceAt", mapped, scalar(s, 1)))}
		})
	}, signed(2), signed(2))
	graph("Loop Optional OptionalGetElement", "in each step", func(b builder, in values) values {
		return loop(b, 2, nil, in[:1], 1, func(s builder, i *onnx.Value, h values) values {
			o := s.Op("Optional", s.Op("Sin", h[0]))
			return values{truth(s, true), s.Op("Mul", s.Op("OptionalGetElement", o), in[1])}
		})
	}, signed(2), signed(2))
}
