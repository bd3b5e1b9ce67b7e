package difftest

import (
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	generators["If"] = func(g *gen) {
		s := g.full(0, 3)
		x, y := g.rand(s...), g.rand(g.full(0, 3)...)
		branch := func(name string) *onnx.Attribute {
			b := g.b.Sub(name)
			v := b.Op("Identity", one(g, x, y))
			b.OutputOf(name+"_out", v, nil)
			return onnx.GraphAttr(name, b.Graph())
		}
		g.attrs = append(g.attrs, branch("then_branch"), branch("else_branch"))
		g.node(1, g.feed(tensor.New([]bool{g.chance(2)}, []int{1}[:g.IntN(2)]...)))
	}
	generators["Loop"] = func(g *gen) {
		g.dtype = one(g, tensor.Float32, tensor.Int64, tensor.Float64)
		g.plain = true
		s := g.full(0, 2)
		state, step := g.rand(s...), g.rand(s...)
		b := g.b.Sub("body")
		i := b.Input("i", tensor.Int64)
		c := b.Input("c", tensor.Bool)
		v := b.InputOf("v", &onnx.Type{Elem: g.dtype})
		next := b.Op("Add", v, step)
		go1 := b.Op("Identity", c)
		if g.chance(2) {
			go1 = b.Op("Less", b.Node("Cast", []*onnx.Value{i}, onnx.IntAttr("to", int64(tensor.Float32))), b.Const(tensor.Scalar(float32(g.in(0, 4)))))
		}
		b.OutputOf("go", go1, nil)
		b.OutputOf("next", next, nil)
		outs := g.in(1, 3)
		for k := 1; k < outs; k++ {
			scan := b.Op("Identity", one(g, next, v))
			b.OutputOf(one(g, "s", "t")+string(rune('0'+k)), scan, nil)
		}
		g.attrs = append(g.attrs, onnx.GraphAttr("body", b.Graph()))
		var trips, cond *onnx.Value
		if !g.chance(4) {
			trips = g.feed(tensor.Scalar(int64(g.in(0, 4))))
		}
		if g.chance(2) {
			cond = g.feed(tensor.Scalar(!g.chance(5)))
		}
		if trips == nil { // with neither it would never end
			trips = g.feed(tensor.Scalar(int64(3)))
		}
		g.node(outs, trips, cond, state)
	}
	generators["Scan"] = func(g *gen) {
		if g.since == 8 {
			return
		}
		g.plain = true
		g.dtype = one(g, tensor.Float32, tensor.Int64)
		n, s := g.in(1, 4), g.full(1, 2)
		scans := g.in(1, 2)
		g.int("num_scan_inputs", scans)
		var inAxes, inDirs, outAxes, outDirs []int64
		inputs := []*onnx.Value{g.rand(s...)}
		b := g.b.Sub("body")
		st := b.InputOf("st", &onnx.Type{Elem: g.dtype})
		elems := []*onnx.Value{}
		for k := range scans {
			a := g.IntN(len(s) + 1)
			inputs = append(inputs, g.rand(slices.Insert(slices.Clone(s), a, n)...))
			if g.since >= 11 && g.chance(2) {
				a -= len(s) + 1
			}
			inAxes, inDirs = append(inAxes, int64(a)), append(inDirs, int64(g.IntN(2)))
			elems = append(elems, b.InputOf("e"+string(rune('0'+k)), &onnx.Type{Elem: g.dtype}))
		}
		next := st
		for _, e := range elems {
			next = b.Op("Add", next, e)
		}
		dims := []any{}
		for _, d := range s {
			dims = append(dims, d)
		}
		b.Output("next", next, g.dtype, dims...)
		outs := g.in(1, 2)
		for k := range outs {
			b.Output("o"+string(rune('0'+k)), b.Op("Neg", one(g, next, elems[0])), g.dtype, dims...)
			a := g.IntN(len(s) + 1)
			if g.since >= 11 && g.chance(2) {
				a -= len(s) + 1
			}
			outAxes, outDirs = append(outAxes, int64(a)), append(outDirs, int64(g.IntN(2)))
		}
		g.ints("scan_input_axes", inAxes...)
		g.ints("scan_input_directions", inDirs...)
		g.ints("scan_output_axes", outAxes...)
		g.ints("scan_output_directions", outDirs...)
		g.attrs = append(g.attrs, onnx.GraphAttr("body", b.Graph()))
		g.node(1+outs, inputs...)
	}
}
