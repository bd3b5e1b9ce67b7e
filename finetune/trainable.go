package finetune

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
)

// weightsToTrain is the initializers that training changes; those of integers among them are also in t.rounded.
func (t *Trainer) weightsToTrain(ties []tie) ([]*onnx.Value, error) {
	m, err := runtime.Expand(t.model)
	if err != nil {
		return nil, err
	}
	integers := map[string]*quantizedWeight{}
	if t.cfg.StraightThrough {
		infos, err := runtime.Infer(m)
		if err != nil {
			return nil, err
		}
		integers = quantizedWeights(m, infos)
	}
	fixed := pytorchBuffers(m)
	for _, x := range ties {
		fixed[x.copy] = true
	}
	for _, o := range t.names {
		for _, part := range o.places() {
			fixed[part.Initializer] = fixed[part.Initializer] || o.Buffer
		}
	}
	chosen, err := t.choose(func(v *onnx.Value) bool {
		return (v.Const.DType().IsFloat() || integers[v.Name] != nil) && !fixed[v.Name]
	})
	t.rounded = map[string]*quantizedWeight{}
	for _, v := range chosen {
		if w := integers[v.Name]; w != nil {
			t.rounded[v.Name] = w
		}
	}
	return chosen, err
}

// choose gives the initializers that Trainable names, of those that may be.
func (t *Trainer) choose(may func(*onnx.Value) bool) ([]*onnx.Value, error) {
	var chosen []*onnx.Value
	matched := make([]bool, len(t.cfg.Trainable))
	all := !slices.ContainsFunc(t.cfg.Trainable, func(glob string) bool { return !strings.HasPrefix(glob, "!") })
	for _, v := range t.model.Graph.Inits {
		if !may(v) {
			continue
		}
		held := t.names.at(v.Name)
		constant := (isConstant(v) || t.derived[v.Name]) && len(held) == 0
		names := append(held, v.Name) // the last one is that of all parts
		on, off := make([]bool, len(names)), make([]bool, len(names))
		on[len(held)] = all && !constant
		for i, glob := range t.cfg.Trainable {
			glob, not := strings.CutPrefix(glob, "!")
			for k, name := range names {
				ok, err := path.Match(glob, name)
				if err != nil {
					return nil, fmt.Errorf("trainable %q: %w", t.cfg.Trainable[i], err)
				}
				if ok && not {
					off[k], matched[i] = true, true
				} else if ok && (!constant || glob == name) {
					on[k], matched[i] = true, true
				}
			}
		}
		some, whole := 0, len(held)
		for k := range held {
			if (on[k] || on[whole]) && !off[k] && !off[whole] {
				some++
			}
		}
		if some > 0 && some < len(held) {
			return nil, fmt.Errorf("trainable: initializer %q holds %s, which can only be trained together", v.Name, strings.Join(held, ", "))
		}
		if some > 0 || len(held) == 0 && on[whole] && !off[whole] {
			chosen = append(chosen, v)
		}
	}
	for i, ok := range matched {
		if !ok {
			return nil, fmt.Errorf("trainable %q matches no floating-point weight", t.cfg.Trainable[i])
		}
	}
	return chosen, nil
}

// pytorchBuffers names the weights that PyTorch has as buffers, which no optimizer sees: batch norms' running means and variances, the
// weights of classes in a loss, tables of cosines and sines, the scales of what is quantized.
func pytorchBuffers(m *onnx.Model) map[string]bool {
	names := map[string]bool{}
	m.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range g.Nodes {
			var held []*onnx.Value
			switch {
			case n.Op == "QuantizeLinear", n.Op == "DequantizeLinear":
				held = []*onnx.Value{n.Input(1)}
			case n.Op == "QLinearConv", n.Op == "QLinearMatMul":
				held = []*onnx.Value{n.Input(1), n.Input(4), n.Input(6)}
			case n.Op == "MatMulIntegerToFloat":
				held = []*onnx.Value{n.Input(2), n.Input(3)}
			case onnx.CanonicalDomain(n.Domain) != "":
			case n.Op == "BatchNormalization":
				held = []*onnx.Value{n.Input(3), n.Input(4)}
			case n.Op == "NegativeLogLikelihoodLoss", n.Op == "SoftmaxCrossEntropyLoss":
				held = []*onnx.Value{n.Input(2)}
			case n.Op == "RotaryEmbedding":
				held = []*onnx.Value{n.Input(1), n.Input(2)}
			}
			for _, v := range held {
				if v != nil && v.Const != nil {
					names[v.Name] = true
				}
			}
		}
	})
	return names
}

// reachesAll is an error if what Trainable names is not trained, since the loss does not hang on it.
func (t *Trainer) reachesAll(l *lossGraph) error {
	for _, glob := range t.cfg.Trainable {
		if strings.HasPrefix(glob, "!") {
			continue
		}
		matches := func(name string) bool {
			return slices.ContainsFunc(append(t.names.at(name), name), func(name string) bool {
				ok, _ := path.Match(glob, name)
				return ok
			})
		}
		if slices.ContainsFunc(t.params, func(p *Parameter) bool { return matches(p.Name) }) {
			continue
		}
		wrt := slices.DeleteFunc(slices.Clone(l.wrt), func(v *onnx.Value) bool { return !matches(v.Name) })
		if way := l.builder.Severed(l.loss, wrt); way != "" {
			return fmt.Errorf("trainable %q: the loss hangs on no weight that it matches but by %s", glob, way)
		}
		return fmt.Errorf("trainable %q: the loss hangs on no weight that it matches", glob)
	}
	return nil
}

// untrainable says why no weight is trained.
func (t *Trainer) untrainable(l *lossGraph) error {
	if n := l.builder.Cut(); n != nil {
		return fmt.Errorf("the loss hangs on no trainable weight but by node %q (%s), whose output is constant almost everywhere", n.Name, n.Op)
	}
	if way := l.builder.Severed(l.loss, l.wrt); way != "" {
		return fmt.Errorf("the loss hangs on no trainable weight but by %s", way)
	}
	if name := t.quantizedWeight(); name != "" && !t.cfg.StraightThrough {
		return fmt.Errorf("the loss hangs on no trainable weight: those of integers, such as %q, are trained by straight-through estimation alone, if it is asked for", name)
	}
	return fmt.Errorf("the loss hangs on no trainable weight")
}

// quantizedWeight names a weight of integers, if there is one.
func (t *Trainer) quantizedWeight() (name string) {
	t.model.Graph.Walk(func(g *onnx.Graph) {
		for _, n := range g.Nodes {
			if in := n.Input(0); n.Op == "DequantizeLinear" && in != nil && (in.Const != nil || in.Def() != nil && in.Def().Op == "Constant") {
				name = in.Name
			}
		}
	})
	return name
}
