package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/retune-go/retune/finetune"
	"github.com/retune-go/retune/internal/testkit"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// errNoGradient is of cases that have nothing to compare: no floating-point input or output, or an operator that says it has no gradient.
var errNoGradient = errors.New("no gradient")

// kinks are cases with an element at which the function has no derivative; the operator's is PyTorch's there. masked are those with rows
// that attend to nothing, whose zeros the body makes by way of NaN.
var (
	kinks  = regexp.MustCompile("^test_(elu|leakyrelu|selu)_example_")
	masked = regexp.MustCompile("^test_attention_(23_boolmask_fullymasked|2[34]_fullymasked|24_qk_matmul_output_mode3_softmax|4d_causal_nonpad_negative_offset_structural|causal_boolmask_nan)")
)

// The gradient of each operator that has a function body is that through the body, on the suite's own cases, which lie beside each
// other: with the operator, and with its body in the operator's place.
func TestBodyGradients(t *testing.T) {
	node := filepath.Join(testkit.Dir(t, "conformance"), "node")
	expanded, err := filepath.Glob(filepath.Join(node, "*_expanded*"))
	if err != nil {
		t.Fatal(err)
	}
	suffix := regexp.MustCompile(`_expanded.*`)
	compared, seen := 0, map[string]int{}
	for _, dir := range expanded {
		if name := filepath.Base(dir); kinks.MatchString(name) || masked.MatchString(name) {
			continue
		}
		native := suffix.ReplaceAllString(dir, "")
		want, op, err := inputGradients(native)
		if errors.Is(err, errNoGradient) || skips[filepath.Base(native)] != "" {
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(native), err)
			continue
		}
		got, _, err := inputGradients(dir)
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(dir), err)
			continue
		}
		for i := range want {
			if err := sameGradient(got[i], want[i]); err != nil {
				t.Errorf("%s: input %d: %v", filepath.Base(dir), i, err)
			}
		}
		compared++
		seen[op]++
	}
	t.Logf("%d cases of %d operators", compared, len(seen))
	if compared == 0 {
		t.Error("nothing was compared")
	}
}

// sameGradient compares by the greatest element; a gradient that is not there is of zeros.
func sameGradient(a, b *tensor.Tensor) error {
	if a == nil {
		a, b = b, a
	}
	if a == nil {
		return nil
	}
	greatest := 0.0
	for i := range a.Len() {
		if v := math.Abs(tensor.Float64At(a, i)); !math.IsInf(v, 0) && v > greatest {
			greatest = v
		}
	}
	for i := range a.Len() {
		x, y := tensor.Float64At(a, i), 0.0
		if b != nil {
			y = tensor.Float64At(b, i)
		}
		tol := 2e-5
		if a.DType().Size() == 2 {
			tol = 2e-2
		}
		if !(math.Abs(x-y) <= tol*(1+greatest)) && !(math.IsNaN(x) && math.IsNaN(y)) && x != y {
			return fmt.Errorf("element %d: %g by one way, %g by the other", i, x, y)
		}
	}
	return nil
}

// inputGradients is the gradients of a weighed sum of a case's outputs by its inputs, nil for those that it does not hang on.
func inputGradients(dir string) ([]*tensor.Tensor, string, error) {
	m, err := onnx.Load(filepath.Join(dir, "model.onnx"))
	if err != nil {
		return nil, "", err
	}
	op := m.Graph.Nodes[0].Op
	args, err := readInputs(filepath.Join(dir, "test_data_set_0"), m)
	if err != nil {
		return nil, op, err
	}
	if m, err = runtime.Expand(m); err != nil {
		return nil, op, err
	}
	// What the operators say has no gradient: tables of angles, scores beside the answer, and what bodies look at the
	// rank of, which is not known before they run.
	inputs, outputs := len(m.Graph.Inputs), len(m.Graph.Outputs)
	switch name := filepath.Base(dir); {
	case strings.Contains(name, "rotary"):
		inputs = 1
	case strings.Contains(name, "qk_matmul"):
		outputs--
	case strings.Contains(name, "affine_grid"):
		return nil, op, errNoGradient
	}
	var wrt []*onnx.Value
	for _, v := range m.Graph.Inputs[:inputs] {
		if v.Type.Kind == onnx.TensorType && v.Type.Elem.IsFloat() {
			wrt = append(wrt, v)
		}
	}
	infos, err := runtime.Infer(m)
	if err != nil {
		return nil, op, err
	}
	g := ops.NewGrad(m, infos)
	var loss *onnx.Value
	for _, y := range m.Graph.Outputs[:outputs] {
		if y.Type.Kind != onnx.TensorType || !y.Type.Elem.IsFloat() {
			continue
		}
		// Weights that differ: cosines of the places.
		wide := g.Op("Reshape", g.With("Cast", []*onnx.Attribute{ops.IntAttr("to", int64(tensor.Float32))}, y), g.Int64s(-1))
		at := g.With("Cast", []*onnx.Attribute{ops.IntAttr("to", int64(tensor.Float32))}, g.Positions(wide, 0))
		part := g.With("ReduceSum", []*onnx.Attribute{ops.IntAttr("keepdims", 0)}, g.Mul(wide, g.Op("Cos", at)))
		if loss != nil {
			part = g.Add(loss, part)
		}
		loss = part
	}
	if loss == nil || len(wrt) == 0 || g.Err() != nil {
		return nil, op, errors.Join(g.Err(), errNoGradient)
	}
	m.Graph.Outputs = []*onnx.Value{loss}
	grads, err := finetune.Gradient(m, loss, wrt)
	if err != nil {
		if n := m.Graph.Nodes[0]; strings.Contains(err.Error(), fmt.Sprintf("(%s)", n.Op)) {
			if r, e := ops.Resolve(n, int(m.OpsetVersion(n.Domain))); e == nil && r.Def.Grad == nil {
				return nil, op, errNoGradient
			}
		}
		return nil, op, err
	}
	out := make([]*tensor.Tensor, len(wrt))
	for _, v := range wrt {
		if d := grads[v]; d != nil {
			m.Graph.Outputs = append(m.Graph.Outputs, d)
		}
	}
	s, err := runtime.NewSession(m, runtime.Threads(1))
	if err != nil {
		return nil, op, err
	}
	defer s.Close()
	values, err := s.Run(context.Background(), args)
	if err != nil {
		return nil, op, err
	}
	for i, v := range wrt {
		if d := grads[v]; d != nil {
			out[i] = values[d.Name].(*tensor.Tensor)
		}
	}
	return out, op, nil
}
