package finetune

import (
	"fmt"
	"math"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// Loss is a scalar that training makes small. Output is a model output, Target the name under which
// a batch brings what it should be. All losses are means, as PyTorch's default has it.
type Loss interface {
	// build adds the loss to the graph; the target becomes an input of it.
	build(g *ops.Grad, m *onnx.Model) (*onnx.Value, error)
}

// Sum is the sum of several losses, each multiplied by its weight: of a model with several outputs, say.
type Sum []Term

// Term is a loss of a [Sum].
type Term struct {
	Loss   Loss
	Weight float64
}

// CrossEntropy is torch.nn.CrossEntropyLoss over class indices: the class axis is the last one of
// the output if the targets have its shape without that axis, else axis 1.
type CrossEntropy struct {
	Output, Target string
	IgnoreIndex    *int64    // targets that do not count; nil: -100
	Weight         []float64 // one a class, or none
	LabelSmoothing float64
}

// MSE is torch.nn.MSELoss.
type MSE struct{ Output, Target string }

// L1 is torch.nn.L1Loss.
type L1 struct{ Output, Target string }

// Huber is torch.nn.HuberLoss.
type Huber struct {
	Output, Target string
	Delta          float64 // 0: 1
}

// BCEWithLogits is torch.nn.BCEWithLogitsLoss.
type BCEWithLogits struct{ Output, Target string }

// NLL is torch.nn.NLLLoss: the output holds log-probabilities.
type NLL struct {
	Output, Target string
	IgnoreIndex    *int64
	Weight         []float64
}

// output finds a model output by name. One of 16 bits is widened: a mean over many needs more.
func output(g *ops.Grad, m *onnx.Model, name string) (*onnx.Value, error) {
	for _, v := range m.Graph.Outputs {
		if v.Name != name {
			continue
		}
		switch d := g.Info(v).DType; {
		case d != tensor.Undefined && !d.IsFloat():
			return nil, fmt.Errorf("loss: output %q is of %s, which has no gradient", name, d)
		case d == tensor.Float16 || d == tensor.BFloat16:
			v = g.With("Cast", []*onnx.Attribute{ops.IntAttr("to", int64(tensor.Float32))}, v)
		}
		return v, g.Err()
	}
	return nil, fmt.Errorf("loss: the model has no output %q", name)
}

// input adds the target as a graph input.
func input(g *ops.Grad, name string, info ops.Info) (*onnx.Value, error) {
	if name == "" {
		return nil, fmt.Errorf("loss: the target has no name")
	}
	for _, v := range g.Graph.Inputs {
		if v.Name == name { // a model that takes its labels already, or is to give back its input
			if d := g.Info(v).DType; d != info.DType && d != tensor.Undefined {
				return nil, fmt.Errorf("loss: target %q is an input of the model's of %s, not of %s", name, d, info.DType)
			}
			return v, nil
		}
	}
	v := &onnx.Value{Name: name, Type: &onnx.Type{Elem: info.DType}}
	if info.Ranked {
		v.Type.Shape = make([]onnx.Dim, len(info.Shape))
		for i, d := range info.Shape {
			v.Type.Shape[i].Value = -1
			if d.Known() {
				v.Type.Shape[i].Value = int64(d.N)
			} else if size, ok := d.Name(); ok {
				v.Type.Shape[i].Param = size
			}
		}
	}
	g.Graph.Inputs = append(g.Graph.Inputs, v)
	g.Infos[v] = info
	return v, nil
}

func (s Sum) build(g *ops.Grad, m *onnx.Model) (*onnx.Value, error) {
	var sum *onnx.Value
	for _, t := range s {
		if t.Loss == nil || math.IsNaN(t.Weight) || math.IsInf(t.Weight, 0) {
			return nil, fmt.Errorf("loss: a term of a sum is %T with the weight %v", t.Loss, t.Weight)
		}
		v, err := t.Loss.build(g, m)
		if err != nil {
			return nil, err
		}
		if t.Weight != 1 {
			v = g.Mul(v, g.Like(v, t.Weight))
		}
		if sum == nil {
			sum = v
		} else {
			sum = g.Add(sum, g.Cast(v, g.DType(sum)))
		}
	}
	if sum == nil {
		return nil, fmt.Errorf("loss: a sum of none")
	}
	return sum, g.Err()
}

func (l CrossEntropy) build(g *ops.Grad, m *onnx.Model) (*onnx.Value, error) {
	if !(l.LabelSmoothing >= 0 && l.LabelSmoothing <= 1) {
		return nil, fmt.Errorf("loss: the label smoothing must be between 0 and 1, got %v", l.LabelSmoothing)
	}
	out, err := output(g, m, l.Output)
	if err != nil {
		return nil, err
	}
	return classLoss(g, out, l.Target, l.IgnoreIndex, l.Weight, ops.FloatAttr("label_smoothing", float32(l.LabelSmoothing)))
}

func classLoss(g *ops.Grad, out *onnx.Value, target string, ignore *int64, weight []float64, attrs ...*onnx.Attribute) (*onnx.Value, error) {
	y, err := input(g, target, ops.Unranked(tensor.Int64))
	if err != nil {
		return nil, err
	}
	skip := int64(-100) // PyTorch's
	if ignore != nil {
		skip = *ignore
	}
	attrs = append(attrs, ops.IntAttr("ignore_index", skip))
	in := []*onnx.Value{out, y}
	if weight != nil {
		w, err := tensor.Convert(tensor.New(weight), g.DType(out), true)
		if err != nil {
			return nil, err
		}
		in = append(in, g.Const(w))
	}
	return g.Internal("CrossEntropy", 1, in, attrs...)[0], g.Err()
}

func (l NLL) build(g *ops.Grad, m *onnx.Model) (*onnx.Value, error) {
	out, err := output(g, m, l.Output)
	if err != nil {
		return nil, err
	}
	return classLoss(g, out, l.Target, l.IgnoreIndex, l.Weight, ops.IntAttr("log_probs", 1))
}

func pair(g *ops.Grad, m *onnx.Model, outName, target string) (out, y *onnx.Value, err error) {
	if out, err = output(g, m, outName); err != nil {
		return nil, nil, err
	}
	info := g.Info(out)
	info = info.WithoutValue()
	y, err = input(g, target, info)
	return out, y, err
}

func mean(g *ops.Grad, v *onnx.Value) *onnx.Value {
	return g.With("ReduceMean", []*onnx.Attribute{ops.IntAttr("keepdims", 0)}, v)
}

func (l MSE) build(g *ops.Grad, m *onnx.Model) (*onnx.Value, error) {
	out, y, err := pair(g, m, l.Output, l.Target)
	if err != nil {
		return nil, err
	}
	d := g.Sub(out, y)
	return mean(g, g.Mul(d, d)), g.Err()
}

func (l L1) build(g *ops.Grad, m *onnx.Model) (*onnx.Value, error) {
	out, y, err := pair(g, m, l.Output, l.Target)
	if err != nil {
		return nil, err
	}
	return mean(g, g.Op("Abs", g.Sub(out, y))), g.Err()
}

func (l Huber) build(g *ops.Grad, m *onnx.Model) (*onnx.Value, error) {
	delta := or(l.Delta, 1)
	if !(delta > 0) {
		return nil, fmt.Errorf("loss: Huber's delta must be positive, got %v", delta)
	}
	out, y, err := pair(g, m, l.Output, l.Target)
	if err != nil {
		return nil, err
	}
	d := g.Sub(out, y)
	a := g.Op("Abs", d)
	// Below delta d²/2, beyond it delta·(|d| − delta/2).
	near := g.Mul(g.Mul(d, d), g.Like(d, 0.5))
	far := g.Mul(g.Sub(a, g.Like(d, delta/2)), g.Like(d, delta))
	return mean(g, g.Op("Where", g.Op("LessOrEqual", a, g.Like(d, delta)), near, far)), g.Err()
}

func (l BCEWithLogits) build(g *ops.Grad, m *onnx.Model) (*onnx.Value, error) {
	out, y, err := pair(g, m, l.Output, l.Target)
	if err != nil {
		return nil, err
	}
	// −y·log σ(x) − (1−y)·log(1−σ(x)) = softplus(x) − x·y
	return mean(g, g.Sub(g.Op("Softplus", out), g.Mul(out, y))), g.Err()
}
