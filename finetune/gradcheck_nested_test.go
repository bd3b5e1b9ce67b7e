package finetune

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() { gradFamilies = append(gradFamilies, nestedCases) }

// nestedCases is control flow within control flow, and operators, lists and optionals within it.
func nestedCases(add addCase) {
	type values = []*onnx.Value
	type builder = *onnx.Builder
	scalar := func(b builder, v int64) *onnx.Value { return b.Const(tensor.Scalar(v)) }
	truth := func(b builder, v bool) *onnx.Value { return b.Const(tensor.Scalar(v)) }
	graph := func(name string, f func(b builder, in values) values, in ...*gradInput) *gradCase {
		c := add("Loop", 21, name, nil, in...)
		c.graph = f
		return c
	}
	var names atomic.Int64 // tests build side by side
	fresh := func(s string) string { return fmt.Sprint(s, "_", names.Add(1)) }
	out := func(b builder, vs ...*onnx.Value) {
		for _, v := range vs {
			b.OutputOf(fresh("o"), v, nil)
		}
	}
	f64 := &onnx.Type{Elem: tensor.Float64}
	seq, opt := &onnx.Type{Kind: onnx.SequenceType, Of: f64}, &onnx.Type{Kind: onnx.OptionalType, Of: f64}
	loop := func(b builder, limit *onnx.Value, cond *onnx.Value, states values, types []*onnx.Type, outs int, body func(s builder, i *onnx.Value, states values) values) values {
		s := b.Sub(fresh("body"))
		iter := s.Input(fresh("iter"), tensor.Int64)
		s.Input(fresh("cond"), tensor.Bool)
		var in values
		for j := range states {
			in = append(in, s.InputOf(fresh("in"), types[j]))
		}
		out(s, body(s, iter, in)...)
		return b.Multi("Loop", outs, append(values{limit, cond}, states...), onnx.GraphAttr("body", s.Graph()))
	}
	branch := func(b builder, cond *onnx.Value, outs int, then, other func(s builder) values) values {
		t, e := b.Sub(fresh("then")), b.Sub(fresh("else"))
		out(t, then(t)...)
		out(e, other(e)...)
		return b.Multi("If", outs, values{cond}, onnx.GraphAttr("then_branch", t.Graph()), onnx.GraphAttr("else_branch", e.Graph()))
	}
	scan := func(b builder, states, inputs values, outs int, body func(s builder, h, x values) values, attrs ...*onnx.Attribute) values {
		s := b.Sub(fresh("body"))
		var h, x values
		for range states {
			h = append(h, s.InputOf(fresh("h"), f64))
		}
		for range inputs {
			x = append(x, s.InputOf(fresh("x"), f64))
		}
		out(s, body(s, h, x)...)
		attrs = append(attrs, onnx.GraphAttr("body", s.Graph()), onnx.IntAttr("num_scan_inputs", int64(len(inputs))))
		return b.Multi("Scan", outs, slices.Concat(states, inputs), attrs...)
	}
	sum := func(b builder, v *onnx.Value) *onnx.Value {
		return b.Node("ReduceSum", values{v}, onnx.IntAttr("keepdims", 0))
	}
	types := func(n int) []*onnx.Type { return slices.Repeat([]*onnx.Type{f64}, n) }

	graph("states and what is scanned are other states themselves", func(b builder, in values) values {
		return loop(b, scalar(b, 3), nil, in[:3], types(3), 4, func(s builder, i *onnx.Value, h values) values {
			return values{truth(s, true), h[1], s.Op("Sin", s.Op("Mul", h[0], h[2])), h[2], h[1]}
		})
	}, signed(2), signed(2), signed(2))
	graph("branches that give what is outside itself", func(b builder, in values) values {
		x := b.Op("Sin", in[0])
		return branch(b, truth(b, true), 2, func(s builder) values { return values{x, in[1]} }, func(s builder) values { return values{in[1], x} })
	}, signed(2), signed(2))
	graph("one value is two states", func(b builder, in values) values {
		return loop(b, scalar(b, 3), nil, values{in[0], in[0]}, types(2), 2, func(s builder, i *onnx.Value, h values) values {
			return values{truth(s, true), s.Op("Mul", h[0], h[1]), s.Op("Sin", h[1])}
		})
	}, signed(2))
	graph("one value is scanned twice", func(b builder, in values) values {
		return scan(b, values{in[0]}, values{in[1], in[1]}, 2, func(s builder, h, x values) values {
			n := s.Op("Sin", s.Op("Mul", h[0], s.Op("Add", x[0], s.Op("Mul", x[1], x[1]))))
			return values{n, n}
		}, onnx.IntsAttr("scan_input_directions", 0, 1))
	}, signed(2), signed(3, 2))
	graph("as many trips as data say", func(b builder, in values) values {
		n := b.Node("Cast", values{b.Op("Ceil", sum(b, b.Op("Abs", in[0])))}, onnx.IntAttr("to", int64(tensor.Int64)))
		return loop(b, n, nil, in[:1], types(1), 2, func(s builder, i *onnx.Value, h values) values {
			v := s.Op("Mul", h[0], in[1])
			return values{truth(s, true), v, s.Op("Sin", v)}
		})
	}, uniform(0.61, 0.89, 3), signed(3))
	graph("scan in loop", func(b builder, in values) values {
		return loop(b, scalar(b, 2), nil, in[:1], types(1), 1, func(s builder, i *onnx.Value, h values) values {
			r := scan(s, h, in[1:2], 2, func(u builder, k, x values) values {
				n := u.Op("Tanh", u.Op("Mul", u.Op("Add", k[0], x[0]), in[2]))
				return values{n, u.Op("Mul", n, h[0])}
			})
			return values{truth(s, true), s.Op("Add", r[0], sum(s, r[1]))}
		})
	}, signed(2), signed(3, 2), signed(2))
	graph("loop in scan", func(b builder, in values) values {
		return scan(b, in[:1], in[1:2], 2, func(s builder, h, x values) values {
			r := loop(s, scalar(s, 2), nil, h, types(1), 2, func(u builder, i *onnx.Value, k values) values {
				n := u.Op("Tanh", u.Op("Mul", u.Op("Add", k[0], x[0]), in[2]))
				return values{truth(u, true), n, u.Op("Mul", n, h[0])}
			})
			return values{r[0], sum(s, r[1])}
		})
	}, signed(2), signed(3, 2), signed(2))
	graph("if in scan", func(b builder, in values) values {
		return scan(b, in[:1], in[1:2], 2, func(s builder, h, x values) values {
			r := branch(s, s.Op("Greater", sum(s, x[0]), s.Const(tensor.Scalar(0.0))), 1, func(u builder) values {
				return values{u.Op("Mul", h[0], u.Op("Exp", x[0]))}
			}, func(u builder) values { return values{u.Op("Sin", u.Op("Mul", h[0], in[2]))} })
			return values{r[0], s.Op("Mul", r[0], x[0])}
		})
	}, signed(2), signed(4, 2), signed(2))
	graph("scan of no steps", func(b builder, in values) values {
		return scan(b, in[:1], in[1:2], 2, func(s builder, h, x values) values {
			n := s.Op("Mul", h[0], s.Op("Mul", x[0], in[2]))
			return values{n, n}
		})
	}, signed(2), signed(0, 2), signed(2))
	graph("scan of no steps, axis 1", func(b builder, in values) values {
		return scan(b, in[:1], in[1:2], 2, func(s builder, h, x values) values {
			n := s.Op("Mul", h[0], s.Op("Mul", x[0], in[2]))
			return values{n, n}
		}, onnx.IntsAttr("scan_input_axes", 1), onnx.IntsAttr("scan_output_axes", 1))
	}, signed(2), signed(2, 0), signed(2))
	graph("branches that give optionals", func(b builder, in values) values {
		o := branch(b, truth(b, true), 1, func(s builder) values { return values{s.Op("Optional", s.Op("Sin", in[0]))} },
			func(s builder) values { return values{s.Op("Optional", s.Op("Mul", in[0], in[1]))} })
		return values{b.Op("Mul", b.Op("OptionalGetElement", o[0]), in[1])}
	}, signed(2), signed(2))
	graph("an optional that one branch reads", func(b builder, in values) values {
		o := b.Op("Optional", b.Op("Sin", in[0]))
		r := branch(b, truth(b, true), 1, func(s builder) values { return values{s.Op("Mul", s.Op("OptionalGetElement", o), in[1])} },
			func(s builder) values { return values{s.Op("Identity", in[1])} })
		return values{r[0], b.Op("OptionalGetElement", o)}
	}, signed(2), signed(2))
	graph("an optional state", func(b builder, in values) values {
		o := b.Op("Optional", b.Op("Sin", in[0]))
		r := loop(b, scalar(b, 2), nil, values{o, in[1]}, []*onnx.Type{opt, f64}, 2, func(s builder, i *onnx.Value, h values) values {
			e := s.Op("OptionalGetElement", h[0])
			return values{truth(s, true), s.Op("Optional", s.Op("Mul", e, h[1])), s.Op("Sin", e)}
		})
		return values{b.Op("OptionalGetElement", r[0]), r[1]}
	}, signed(2), signed(2))
	graph("branches that give optional lists", func(b builder, in values) values {
		o := branch(b, truth(b, true), 1, func(s builder) values {
			return values{s.Op("Optional", s.Op("SequenceConstruct", s.Op("Sin", in[0]), in[1]))}
		}, func(s builder) values { return values{s.Op("Optional", s.Op("SequenceConstruct", in[0]))} })
		return values{b.Op("Mul", b.Op("SequenceAt", b.Op("OptionalGetElement", o[0]), scalar(b, 0)), in[1])}
	}, signed(2), signed(2))
	graph("lists from branches within branches", func(b builder, in values) values {
		return loop(b, scalar(b, 3), nil, in[:1], types(1), 1, func(s builder, i *onnx.Value, h values) values {
			l := branch(s, s.Op("Less", i, scalar(s, 2)), 1, func(u builder) values {
				return branch(u, u.Op("Less", i, scalar(u, 1)), 1, func(v builder) values { return values{v.Op("SequenceConstruct", h[0], in[1])} },
					func(v builder) values {
						return values{v.Op("SequenceConstruct", v.Op("Sin", h[0]), v.Op("Mul", h[0], in[1]))}
					})
			}, func(u builder) values {
				return values{u.Op("SequenceInsert", u.Op("SequenceConstruct", in[1]), h[0], scalar(u, 0))}
			})
			return values{truth(s, true), s.Op("Mul", s.Op("SequenceAt", l[0], scalar(s, 0)), s.Op("SequenceAt", l[0], scalar(s, 1)))}
		})
	}, signed(2), signed(2))
	graph("states that count and states that move", func(b builder, in values) values {
		r := loop(b, scalar(b, 3), nil, values{scalar(b, 1), in[0]}, []*onnx.Type{{Elem: tensor.Int64}, f64}, 2, func(s builder, i *onnx.Value, h values) values {
			f := s.Node("Cast", values{h[0]}, onnx.IntAttr("to", int64(tensor.Float64)))
			return values{truth(s, true), s.Op("Add", h[0], i), s.Op("Mul", s.Op("Sin", s.Op("Mul", h[1], f)), in[1])}
		})
		return r[1:]
	}, signed(2), signed(2))
	graph("lstm in loop", func(b builder, in values) values {
		return loop(b, scalar(b, 2), nil, values{in[0], in[1]}, types(2), 2, func(s builder, i *onnx.Value, h values) values {
			o := s.Multi("LSTM", 3, values{h[0], in[2], in[3], nil, nil, h[1], h[1]}, onnx.IntAttr("hidden_size", 2))
			return values{truth(s, true), s.Op("Squeeze", o[0], s.Const(tensor.New([]int64{1}))), s.Op("Add", o[1], o[2])}
		})
	}, signed(3, 1, 2), signed(1, 1, 2), signed(1, 8, 2), signed(1, 8, 2))
	graph("gru in if", func(b builder, in values) values {
		return branch(b, truth(b, true), 1, func(s builder) values {
			o := s.Multi("GRU", 2, values{in[0], in[1], in[2]}, onnx.IntAttr("hidden_size", 2))
			return values{o[1]}
		}, func(s builder) values { return values{s.Op("Sin", in[0])} })
	}, signed(3, 1, 2), signed(1, 6, 2), signed(1, 6, 2))
	graph("conv, pool, norm in loop", func(b builder, in values) values {
		return loop(b, scalar(b, 2), nil, in[:1], types(1), 1, func(s builder, i *onnx.Value, h values) values {
			c := s.Node("Conv", values{h[0], in[1]}, onnx.IntsAttr("pads", 1, 1, 1, 1))
			p := s.Multi("MaxPool", 1, values{c}, onnx.IntsAttr("kernel_shape", 2, 2), onnx.IntsAttr("pads", 0, 0, 1, 1))[0]
			n := s.Node("InstanceNormalization", values{p, in[2], in[2]})
			return values{truth(s, true), s.Op("Softmax", n)}
		})
	}, signed(1, 2, 3, 3), signed(2, 2, 3, 3), signed(2))
	graph("a state that nobody reads", func(b builder, in values) values {
		r := loop(b, scalar(b, 2), nil, in[:2], types(2), 2, func(s builder, i *onnx.Value, h values) values {
			return values{truth(s, true), s.Op("Sin", h[0]), s.Op("Mul", h[1], in[2])}
		})
		return r[:1]
	}, signed(2), signed(2), signed(2))
	graph("a list read at computed places", func(b builder, in values) values {
		list := b.Node("SplitToSequence", values{in[1]}, onnx.IntAttr("axis", 1))
		return loop(b, scalar(b, 4), nil, in[:1], types(1), 1, func(s builder, i *onnx.Value, h values) values {
			at := s.Op("Mod", s.Op("Mul", i, scalar(s, 2)), s.Op("SequenceLength", list))
			return values{truth(s, true), s.Op("Sin", s.Op("Mul", h[0], s.Op("SequenceAt", list, at)))}
		})
	}, signed(2, 1), signed(2, 3))
	graph("ends by its condition, a list that grows at the front", func(b builder, in values) values {
		e := b.Node("SequenceEmpty", nil, onnx.IntAttr("dtype", int64(tensor.Float64)))
		r := loop(b, nil, truth(b, true), values{in[0], e}, []*onnx.Type{f64, seq}, 2, func(s builder, i *onnx.Value, h values) values {
			n := s.Op("Mul", h[0], in[1])
			return values{s.Op("Greater", sum(s, s.Op("Abs", n)), s.Const(tensor.Scalar(0.4))), n, s.Op("SequenceInsert", h[1], s.Op("Sin", n), scalar(s, 0))}
		})
		return values{r[0], b.Node("ConcatFromSequence", values{r[1]}, onnx.IntAttr("axis", 0), onnx.IntAttr("new_axis", 1))}
	}, uniform(1, 2, 2), uniform(0.4, 0.6, 2))
	graph("shapes that steps read", func(b builder, in values) values {
		return loop(b, scalar(b, 2), nil, in[:1], types(1), 1, func(s builder, i *onnx.Value, h values) values {
			flat := s.Op("Reshape", h[0], s.Const(tensor.New([]int64{-1})))
			m := s.Op("Mul", flat, s.Op("Expand", in[1], s.Op("Shape", flat)))
			return values{truth(s, true), s.Op("Reshape", m, s.Op("Shape", h[0]))}
		})
	}, signed(2, 3), signed(1))
	graph("another first step", func(b builder, in values) values {
		return loop(b, scalar(b, 3), nil, values{in[0]}, types(1), 2, func(s builder, i *onnx.Value, h values) values {
			first := s.Op("Equal", i, scalar(s, 0))
			n := branch(s, first, 2, func(u builder) values { return values{u.Op("Mul", h[0], in[1]), u.Op("Cos", in[1])} },
				func(u builder) values {
					return values{u.Op("Tanh", u.Op("MatMul", in[2], h[0])), u.Op("Identity", h[0])}
				})
			return values{truth(s, true), n[0], n[1]}
		})
	}, signed(2), signed(2), signed(2, 2))
	graph("the last of what is scanned", func(b builder, in values) values {
		r := loop(b, scalar(b, 3), nil, values{in[0]}, types(1), 2, func(s builder, i *onnx.Value, h values) values {
			n := s.Op("Sin", s.Op("Mul", h[0], in[1]))
			return values{truth(s, true), n, s.Op("Mul", n, n)}
		})
		return values{b.Op("Gather", r[1], scalar(b, -1))}
	}, signed(2), signed(2))
}
