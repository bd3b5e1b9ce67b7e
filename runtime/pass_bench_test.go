package runtime_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// benchPasses times m with all passes and without one.
func benchPasses(b *testing.B, m *onnx.Model, in map[string]tensor.Value, without string) {
	for name, opts := range map[string][]runtime.Option{"with": nil, "without": {runtime.WithoutPass(without)}} {
		b.Run(name, func(b *testing.B) {
			s, err := runtime.NewSession(m, append(opts, runtime.Threads(1))...)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			out, err := s.Run(context.Background(), in)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := s.RunInto(context.Background(), in, out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Attention of a GPT's block, of queries after keys that are cached if few.
func BenchmarkAttention(b *testing.B) {
	for _, c := range []struct {
		queries, keys int
		causal        bool
	}{{1, 128, false}, {1, 1024, false}, {16, 16, false}, {64, 64, false}, {128, 128, false}, {256, 256, false}, {1024, 1024, false}, {256, 256, true}, {1024, 1024, true}} {
		b.Run(fmt.Sprint(c.queries, "x", c.keys, " causal ", c.causal), func(b *testing.B) {
			g := attending{onnx.NewBuilder("attention", 17)}
			q, k := g.Input("q", tensor.Float32, 1, c.queries, 384), g.Input("k", tensor.Float32, 1, c.keys, 384)
			head := func(x *onnx.Value, n int) *onnx.Value { return g.shape(x, 1, int64(n), 6, 64) }
			s := g.Op("Div", g.Op("MatMul", g.perm(head(q, c.queries), 0, 2, 1, 3), g.perm(head(k, c.keys), 0, 2, 3, 1)), g.number(8))
			if c.causal {
				s = g.Op("Where", g.Const(causal(c.keys)), g.number(-1e9), s)
			}
			y := g.Op("MatMul", g.softmax(s), g.perm(head(k, c.keys), 0, 2, 1, 3))
			g.OutputOf("y", g.shape(g.perm(y, 0, 2, 1, 3), 1, int64(c.queries), 384), nil)
			m, err := g.Model()
			if err != nil {
				b.Fatal(err)
			}
			benchPasses(b, m, map[string]tensor.Value{"q": random(1, c.queries, 384), "k": random(1, c.keys, 384)}, "attention")
		})
	}
}

// Chains of operators on single elements: short ones and long, of a rotation, and of Swish and what multiplies it.
func BenchmarkChains(b *testing.B) {
	for _, n := range []int{1 << 10, 1 << 14, 1 << 18, 1 << 21} {
		for name, chain := range map[string]func(g *onnx.Builder, x, y, row *onnx.Value) *onnx.Value{
			"swiglu": func(g *onnx.Builder, x, y, row *onnx.Value) *onnx.Value {
				return g.Op("Mul", g.Op("Mul", x, g.Op("Sigmoid", x)), y)
			},
			"rotation": func(g *onnx.Builder, x, y, row *onnx.Value) *onnx.Value {
				return g.Op("Add", g.Op("Mul", x, row), g.Op("Mul", y, row))
			},
			"tanh": func(g *onnx.Builder, x, y, row *onnx.Value) *onnx.Value {
				return g.Op("Mul", g.Op("Sub", y, x), g.Op("Sub", number(g, 1), g.Op("Mul", y, y)))
			},
		} {
			b.Run(fmt.Sprint(name, " ", n), func(b *testing.B) {
				g := onnx.NewBuilder("chain", 17)
				x, y := g.Input("x", tensor.Float32, n/256, 256), g.Input("y", tensor.Float32, n/256, 256)
				g.OutputOf("z", chain(g, x, y, g.Const(random(256))), nil)
				m, err := g.Model()
				if err != nil {
					b.Fatal(err)
				}
				benchPasses(b, m, map[string]tensor.Value{"x": random(n/256, 256), "y": random(n/256, 256)}, "pointwise")
			})
		}
	}
}
