package finetune

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// noSecond is what gradients of gradients may be refused for: control flow and sequences, whose gradients' own graph can be differentiated instead.
const noSecond = "a gradient of a gradient does not go through control flow and sequences"

// second holds the gradient of a weighted sum of c's gradients, along a random direction of all inputs, against the central difference of that sum. It
// reports whether there was such a gradient.
func (c *gradCase) second(t *testing.T) bool {
	vals, inputs := c.draw()
	m, _, err := c.build(vals)
	if err != nil {
		t.Fatal(err)
	}
	ys, err := runOnce(m, inputs)
	if err != nil {
		t.Fatal(err)
	}
	m, wrt, _ := c.build(vals)
	if _, err := c.weigh(m, ys); err != nil {
		t.Fatal(err)
	}
	if m, wrt, err = expanded(m, wrt); err != nil {
		t.Fatal(err)
	}
	of, err := Gradient(m, m.Graph.Outputs[0], wrt)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(8, 9))
	emit := func(op string, attrs []*onnx.Attribute, in ...*onnx.Value) *onnx.Value {
		k := onnx.NewNode(op, in, fmt.Sprint("second", len(m.Graph.Nodes)))
		k.Attrs, k.Opset = attrs, ops.GradOpset
		m.Graph.Nodes = append(m.Graph.Nodes, k)
		return k.Outputs[0]
	}
	var sum *onnx.Value
	for i, v := range wrt {
		g := of[v]
		if g == nil {
			continue
		}
		x := inputs[v.Name].(*tensor.Tensor)
		w, _ := tensor.Zeros(tensor.Float64, x.Shape()...)
		for j := range w.Len() {
			tensor.SetFloat64At(w, j, 2*r.Float64()-1)
		}
		part := emit("ReduceSum", []*onnx.Attribute{ops.IntAttr("keepdims", 0)}, emit("Mul", nil, g, m.Graph.AddInit(fmt.Sprint("v", i), w)))
		if sum != nil {
			part = emit("Add", nil, sum, part)
		}
		sum = part
	}
	if sum == nil {
		return false
	}
	m.Graph.Outputs = []*onnx.Value{sum}
	first := m.Clone()
	seconds, err := Gradient(m, sum, wrt)
	if err != nil && strings.Contains(err.Error(), noSecond) {
		p, err := saved(first)
		if err != nil && unwritten(err) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		first, m = p, p.Clone()
		sum, wrt = m.Graph.Outputs[0], slices.Clone(m.Graph.Inputs)
		seconds, err = Gradient(m, sum, wrt)
		if err != nil && c.op == "Scan" && c.opset == 8 && strings.Contains(err.Error(), "the rank of") { // which two loops in each other have lost
			return false
		}
		if err != nil {
			t.Fatal("of the gradient's graph: ", err)
		}
	} else if err != nil {
		t.Fatal(err)
	}
	for _, v := range wrt {
		if g := seconds[v]; g != nil {
			m.Graph.Outputs = append(m.Graph.Outputs, g)
		}
	}
	got, err := runOnce(m, inputs)
	if err != nil {
		t.Fatal(err)
	}
	// Steps small enough for nothing to change places.
	const h = 1e-6
	at := map[float64]map[string]tensor.Value{h: {}, -h: {}}
	along, scale := 0.0, 0.1
	for _, v := range wrt {
		x := inputs[v.Name].(*tensor.Tensor)
		up, down := x.Clone(), x.Clone()
		at[h][v.Name], at[-h][v.Name] = up, down
		for j := range x.Len() {
			u := 2*r.Float64() - 1
			tensor.SetFloat64At(up, j, tensor.Float64At(x, j)+h*u)
			tensor.SetFloat64At(down, j, tensor.Float64At(x, j)-h*u)
			if g := seconds[v]; g != nil {
				part := u * tensor.Float64At(got[g.Name].(*tensor.Tensor), j)
				along, scale = along+part, scale+math.Abs(part)
			}
		}
	}
	value := func(in map[string]tensor.Value) float64 {
		out, err := runOnce(first, in)
		if err != nil {
			t.Fatal(err)
		}
		return tensor.Float64At(out[first.Graph.Outputs[0].Name].(*tensor.Tensor), 0)
	}
	slope := (value(at[h]) - value(at[-h])) / (2 * h)
	if !(math.Abs(along-slope) <= 1e-4*scale) {
		t.Errorf("the second gradient along a direction is %.9g, by differences %.9g", along, slope)
	}
	return true
}

// TestSecondGradients holds gradients of gradients of every operator against differences of the first ones.
func TestSecondGradients(t *testing.T) {
	for _, c := range gradCases() {
		if c.refused != "" || c.step != 1e-6 { // those of narrow types have no differences of that size
			continue
		}
		t.Run(fmt.Sprintf("%s-%d/%s", c.op, c.opset, c.name), func(t *testing.T) {
			t.Parallel()
			if !c.second(t) {
				t.Skip("there is none")
			}
		})
	}
}

// The third gradient of a product of which three factors are zero hangs on the fourth.
func TestThirdGradientsOfProductsWithZeros(t *testing.T) {
	x := []float64{0, 2, 0, 0}
	w := [2][]float64{{0.3, -1.1, 0.7, 1.9}, {-0.4, 0.9, 1.3, 0.6}}
	want := make([]float64, len(x)) // Σ over j and k, all different, of the one that is left times their weights
	for i := range x {
		for j := range x {
			for k := range x {
				if i != j && j != k && i != k {
					want[i] += x[6-i-j-k] * w[0][j] * w[1][k]
				}
			}
		}
	}
	for name, product := range map[string]func(b *onnx.Builder, x *onnx.Value) *onnx.Value{
		"ReduceProd": func(b *onnx.Builder, x *onnx.Value) *onnx.Value { return b.Op("ReduceProd", x) },
		"ScatterElements": func(b *onnx.Builder, x *onnx.Value) *onnx.Value {
			return b.Node("ScatterElements", []*onnx.Value{b.Const(tensor.New([]float64{1})), b.Const(tensor.New([]int64{0, 0, 0, 0})), x}, onnx.StringAttr("reduction", "mul"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := onnx.NewBuilder("product", 21)
			in := b.Input("x", tensor.Float64, len(x))
			b.OutputOf("y", product(b, in), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			of := m.Graph.Outputs[0]
			for k := range 3 {
				grads, err := Gradient(m, of, m.Graph.Inputs)
				if err != nil {
					t.Fatal(err)
				}
				of = grads[m.Graph.Inputs[0]]
				if k < 2 {
					dot := onnx.NewNode("MatMul", []*onnx.Value{of, m.Graph.AddInit(fmt.Sprint("w", k), tensor.New(w[k]))}, fmt.Sprint("along", k))
					dot.Opset = ops.GradOpset
					m.Graph.Nodes = append(m.Graph.Nodes, dot)
					of = dot.Outputs[0]
				}
				m.Graph.Outputs = []*onnx.Value{of}
			}
			got, err := runOnce(m, map[string]tensor.Value{"x": tensor.New(x)})
			if err != nil {
				t.Fatal(err)
			}
			if err := different(got[of.Name], tensor.New(want), 1e-12); err != nil {
				t.Error(err)
			}
		})
	}
}
