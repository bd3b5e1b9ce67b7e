package finetune

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// saved is m written in standard operators, as it comes back from a file.
func saved(m *onnx.Model) (*onnx.Model, error) {
	p, err := runtime.Portable(m)
	if err != nil {
		return nil, err
	}
	if err := onnx.Check(p); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	b, err := onnx.Encode(p)
	if err != nil {
		return nil, err
	}
	return onnx.Decode(b)
}

// different says by how much got is not want, relative to want's greatest element, if that is more than tol.
func different(got, want tensor.Value, tol float64) error {
	w, ok := want.(*tensor.Tensor)
	g, ok2 := got.(*tensor.Tensor)
	if !ok || !ok2 {
		return fmt.Errorf("got %v, want %v", got, want)
	}
	if g.DType() != w.DType() || !slices.Equal(g.Shape(), w.Shape()) {
		return fmt.Errorf("got %s%v, want %s%v", g.DType(), g.Shape(), w.DType(), w.Shape())
	}
	top := 1e-3
	for i := range w.Len() {
		top = max(top, math.Abs(tensor.Float64At(w, i)))
	}
	for i := range w.Len() {
		a, b := tensor.Float64At(g, i), tensor.Float64At(w, i)
		if !(math.Abs(a-b) <= tol*top) && !(math.IsNaN(a) && math.IsNaN(b)) {
			return fmt.Errorf("element %d is %.9g, want %.9g", i, a, b)
		}
	}
	return nil
}

// unwritten reports whether an error says that a graph has no standard form for a reason that is known.
func unwritten(err error) bool {
	for _, why := range []string{"which is no tensor, is saved for the gradient",
		// expansions that hang on the sizes of weights and tables, which are constants in models that are trained
		"must be known", "or are not known", "weights of a known width", "do not suit a rotation of"} {
		if strings.Contains(err.Error(), why) {
			return true
		}
	}
	return false
}

// noStandardForm says of the internal operators without a standard form why they need none.
var noStandardForm = map[string][]string{
	"passes put it in when a graph is run": {"BlockedAveragePool", "BlockedConv", "BlockedMaxPool", "BlockedMean", "BlockedScale", "ByteTable", "Conv", "EmbeddingRNN", "FromBlocked",
		"Linear", "MatMul", "Pointwise", "QLinearMatMul", "SelectRows", "ToBlocked"},
}

// Every internal operator, gradients all, has a standard form or a reason.
func TestNoStandardForm(t *testing.T) {
	why := map[string]string{}
	for reason, names := range noStandardForm {
		for _, name := range names {
			why[name] = reason
		}
	}
	for _, op := range ops.All() {
		if op.Domain != ops.Internal {
			continue
		}
		if reason := why[op.Name]; (op.Portable == nil) != (reason != "") {
			t.Errorf("%s: it has a standard form: %v, and the reason why not is %q", op.Name, op.Portable != nil, reason)
		}
		delete(why, op.Name)
	}
	for name := range why {
		t.Errorf("there is no %s", name)
	}
}

// portable holds the case's gradients in standard operators against those of the kernels. It gives why there is nothing to hold.
func (c *gradCase) portable(t *testing.T) error {
	h := fnv.New64a()
	fmt.Fprint(h, c.op, c.opset, c.name)
	r := rand.New(rand.NewPCG(1, h.Sum64()))
	vals, inputs := map[*gradInput]*tensor.Tensor{}, map[string]tensor.Value{}
	for i, a := range c.in {
		if a == nil || vals[a] != nil {
			continue
		}
		vals[a] = a.make(r)
		if !a.fixed {
			inputs[fmt.Sprint("x", i)] = vals[a]
		}
	}
	m, _, err := c.build(vals)
	if err != nil {
		t.Fatal(err)
	}
	ys, err := runOnce(m, inputs)
	if err != nil {
		t.Fatal("the node alone:", err)
	}
	for _, dynamic := range []bool{false, true} {
		m, wrt, _ := c.build(vals)
		if dynamic { // sizes come with the run
			for _, v := range wrt {
				for i := range v.Type.Shape {
					v.Type.Shape[i] = onnx.Dim{Value: -1}
				}
			}
		}
		if _, err := c.weigh(m, ys); err != nil {
			t.Fatal(err)
		}
		if _, err := runOnce(m, inputs); err != nil && dynamic { // as a loop without iterations, whose outputs' sizes are then not known
			return fmt.Errorf("of unknown sizes: %w", err)
		}
		m, wrt, err := expanded(m, wrt)
		if err != nil && dynamic {
			return fmt.Errorf("of unknown sizes: %w", err)
		} else if err != nil {
			t.Fatal(err)
		}
		grads, err := Gradient(m, m.Graph.Outputs[0], wrt)
		if err != nil && dynamic {
			return fmt.Errorf("of unknown sizes: %w", err)
		} else if err != nil {
			t.Fatal(err)
		}
		for _, v := range wrt {
			if g := grads[v]; g != nil && !slices.Contains(m.Graph.Outputs, g) && g.Def() != nil {
				m.Graph.Outputs = append(m.Graph.Outputs, g)
			}
		}
		want, err := runOnce(m, inputs)
		if err != nil {
			t.Fatal("the gradients:", err)
		}
		p, err := saved(m)
		if err != nil && unwritten(err) {
			return err
		}
		if err != nil {
			t.Fatalf("dynamic %v: %v", dynamic, err)
		}
		got, err := runOnce(p, inputs)
		if err != nil {
			t.Fatalf("dynamic %v: %v", dynamic, err)
		}
		for i, o := range m.Graph.Outputs {
			tol := 1e-8
			if w, ok := want[o.Name].(*tensor.Tensor); ok && w.DType() == tensor.Float32 {
				tol = 0x1p-22 // sums in another order
			}
			if err := different(got[o.Name], want[o.Name], tol); err != nil {
				t.Errorf("dynamic %v: output %d: %v", dynamic, i, err)
			}
		}
	}
	return nil
}

// TestPortableGradients holds the standard operators that gradients are written in against their kernels.
func TestPortableGradients(t *testing.T) {
	for _, c := range gradCases() {
		if c.refused != "" || c.op == "SeededDropout" { // the latter draws otherwise: TestTrainingGraphDrops
			continue
		}
		t.Run(fmt.Sprintf("%s-%d/%s", c.op, c.opset, c.name), func(t *testing.T) {
			t.Parallel()
			if err := c.portable(t); err != nil && !unwritten(err) && c.op != "Loop" { // of no trips the sizes of what comes out are not known
				t.Error(err)
			} else if err != nil {
				t.Skip(err)
			}
		})
	}
}
