package ops_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// TestInferenceIsSound tries every shape rule with less and less of what is known of its inputs. What it says must hold for what the kernel
// gives, and it must refuse nothing that the kernel computes.
func TestInferenceIsSound(t *testing.T) {
	everyOperator(t, "infer", soundly)
}

func FuzzInference(f *testing.F) { fuzzOperators(f, soundly) }

// soundly infers a hostile node's outputs from less than is known of its inputs, and reports whether the node gives an answer to compare
// them with.
func soundly(tb testing.TB, op *ops.Op, since int, d *dice, table map[string]map[string]attrKind) bool {
	m, args := d.hostile(op, since, table)
	n := m.Graph.Nodes[0]
	if op.Infer == nil || len(n.Graphs()) > 0 { // subgraphs are inferred by the runtime
		return false
	}
	r, err := ops.Resolve(n, since)
	if err != nil {
		return false
	}
	values := map[*onnx.Value]tensor.Value{}
	for i, v := range n.Inputs {
		if v == nil {
			r.In = append(r.In, ops.Info{})
			continue
		}
		if values[v] = args[v.Name]; v.Const != nil {
			values[v] = v.Const
		}
		r.In = append(r.In, ops.InfoOf(values[n.Inputs[i]], true))
	}
	var got map[string]tensor.Value
	if !op.Impure {
		got, err = runHostile(m, args, 1)
	}
	computed := err == nil && got != nil && !nothing(got)
	names := map[string]int{} // what symbols stand for
	for round := range 4 {
		if round > 0 {
			for i, v := range n.Inputs {
				if v != nil {
					r.In[i] = d.less(r.In[i], values[v], names)
				}
			}
		}
		infos, err := r.InferOutputs()
		switch {
		case err != nil && strings.Contains(err.Error(), "panic"):
			tb.Errorf("%v\n%s", err, withInfos(m, args, r))
			return computed
		case err != nil && computed:
			tb.Errorf("the kernel gives an answer, inference refuses: %v\n%s", err, withInfos(m, args, r))
			return computed
		case err != nil:
			continue
		}
		if !computed {
			continue
		}
		for i, v := range n.Outputs {
			if v == nil {
				continue
			}
			if err := holds(infos[i], got[v.Name], names); err != nil {
				tb.Errorf("output %d: %v\n%s", i, err, withInfos(m, args, r))
				return computed
			}
		}
	}
	return computed
}

// less forgets some of what info says of v. names tells what the symbols stand for that are put in.
func (d *dice) less(info ops.Info, v tensor.Value, names map[string]int) ops.Info {
	t, _ := v.(*tensor.Tensor)
	if d.once(2) {
		info.Const = nil
	}
	if t == nil || info.Const != nil || !info.Ranked {
		return info
	}
	switch d.below(12) {
	case 0:
		info.Ranked, info.Shape = false, nil
		return info
	case 1:
		info.DType = tensor.Undefined
	}
	shape := make([]ops.Dim, len(info.Shape))
	for i, dim := range info.Shape {
		switch d.below(4) {
		case 0:
			dim = ops.Unknown
		case 1:
			if dim.Known() {
				name := fmt.Sprintf("n%d_%d", dim.N, d.below(2))
				dim = ops.Symbol(name)
				names[name] = t.Shape()[i]
			}
		}
		shape[i] = dim
	}
	info.Shape = shape
	return info
}

// holds reports how info is wrong of v.
func holds(info ops.Info, v tensor.Value, names map[string]int) error {
	t, ok := v.(*tensor.Tensor)
	if !ok {
		if info.Kind == onnx.TensorType && (info.Ranked || info.DType != tensor.Undefined && info.Const != nil) {
			return fmt.Errorf("inferred %v, the kernel gives a %s", info, v.Kind())
		}
		return nil
	}
	if info.DType != tensor.Undefined && info.DType != t.DType() {
		return fmt.Errorf("inferred %s, the kernel gives %s", info.DType, t)
	}
	if c := info.Const; c != nil {
		if _, _, err := tensor.Compare(c, t, 1e-6, 1e-6); err != nil {
			return fmt.Errorf("inferred another value: %w", err)
		}
	}
	if !info.Ranked {
		return nil
	}
	wrong := len(info.Shape) != t.Rank()
	for i := 0; !wrong && i < len(info.Shape); i++ {
		dim, size := info.Shape[i], t.Shape()[i]
		n, known := dim.Eval(func(name string) (int, bool) { n, ok := names[name]; return n, ok })
		wrong = known && n != int64(size)
	}
	if wrong {
		return fmt.Errorf("inferred a shape of %v, the kernel gives %s", info.Shape, t)
	}
	return nil
}

func withInfos(m *onnx.Model, args map[string]tensor.Value, r *ops.Node) string {
	s := told(m, args)
	for i, in := range r.In {
		s += fmt.Sprintf("  of input %d: kind %v %s ranked %v %v, value known %v\n", i, in.Kind, in.DType, in.Ranked, in.Shape, in.Const != nil)
	}
	return s
}
