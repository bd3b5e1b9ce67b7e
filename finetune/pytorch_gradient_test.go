package finetune

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
)

// exports is the folders under models/ that have a file of that name.
func exports(t *testing.T, file string) []string {
	t.Helper()
	var dirs []string
	for _, glob := range []string{"../models/*/", "../models/*/*/"} {
		files, err := filepath.Glob(glob + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			dirs = append(dirs, filepath.Dir(f))
		}
	}
	if len(dirs) == 0 {
		t.Fatalf("no model has %s", file)
	}
	return dirs
}

func modelName(dir string) string {
	name, _ := filepath.Rel("../models", dir)
	return filepath.ToSlash(name)
}

// The gradient of the sum of each model's first output is PyTorch's, for every parameter and floating
// input. No element may be off by more than 1e-5 of the greatest magnitude in PyTorch's tensor, and
// where that is zero throughout, ours is.
func TestGradientsArePyTorchs(t *testing.T) {
	for _, dir := range exports(t, "gradients.npz") {
		t.Run(modelName(dir), func(t *testing.T) {
			m, err := onnx.Load(filepath.Join(dir, "model.onnx"))
			if err != nil {
				t.Fatal(err)
			}
			want, err := npy.ReadNPZ(filepath.Join(dir, "gradients.npz"))
			if err != nil {
				t.Fatal(err)
			}
			names := readNames(t, dir)
			got, err := sumGradients(t, dir, m)
			if err != nil {
				t.Fatal(err)
			}
			if modelName(dir) == "convnet_eval" {
				unfold(t, dir, m, names, got)
			}
			worst, compared := 0.0, 0
			check := func(name string, g, w []float64) {
				scale, off := 0.0, 0.0
				for i := range w {
					scale, off = max(scale, math.Abs(w[i])), max(off, math.Abs(g[i]-w[i]))
				}
				compared++
				if scale > 0 {
					off /= scale
				}
				worst = max(worst, off)
				if !(off <= 1e-5) {
					t.Errorf("%s is off by %.2g of its greatest magnitude, %.3g", name, off, scale)
				}
			}
			// Parameters that share an initializer are compared as their sum: which is whose, the file does not say.
			type place struct {
				initializer       string
				direction, offset int
			}
			groups := map[place][]string{}
			for name, o := range names {
				if _, ok := want[name]; ok {
					if o.Initializer == "" {
						t.Errorf("%s is nowhere in the file", name)
						continue
					}
					p := place{o.Initializer, o.Direction, o.Offset}
					groups[p] = append(groups[p], name)
				}
			}
			for p, group := range groups {
				slices.Sort(group)
				o := names[group[0]]
				g := part(t, m, o, got[p.initializer])
				for _, also := range o.Also {
					c := Origin{Shape: o.Shape, Initializer: also, Form: Transposed}
					if slices.Equal(m.Graph.Init(also).Const.Shape(), o.Shape) {
						c.Form = Verbatim
					}
					add(g, part(t, m, c, got[also]))
				}
				w := make([]float64, len(g))
				for _, name := range group {
					add(w, tensor.Float64s(want[name]))
				}
				check(strings.Join(group, " + "), g, w)
			}
			for name, w := range want {
				if _, ok := names[name]; !ok {
					check(name, tensor.Float64s(got[name]), tensor.Float64s(w))
				}
			}
			t.Logf("%d gradients, off by %.2g at most", compared, worst)
		})
	}
}

func readNames(t *testing.T, dir string) Names {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "names.json"))
	if err != nil {
		t.Fatal(err)
	}
	names, err := ParseNames(text)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func part(t *testing.T, m *onnx.Model, o Origin, whole *tensor.Tensor) []float64 {
	t.Helper()
	p, err := o.take(m, m.Graph.Init(o.Initializer), whole)
	if err != nil {
		t.Fatal(err)
	}
	return tensor.Float64s(p)
}

func add(to, v []float64) {
	for i := range to {
		to[i] += v[i]
	}
}

// sumGradients is the gradients of the sum of output 0 on data set 0, by the names of initializers and inputs.
func sumGradients(t *testing.T, dir string, m *onnx.Model) (map[string]*tensor.Tensor, error) {
	t.Helper()
	work := m.Clone()
	infos, err := runtime.Infer(work)
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]tensor.Value{}
	var wrt []*onnx.Value
	for i, v := range work.Graph.Inputs {
		data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("test_data_set_0/input_%d.pb", i)))
		if err != nil {
			t.Fatal(err)
		}
		if in[v.Name], err = onnx.DecodeValue(data, v.Type); err != nil {
			t.Fatal(err)
		}
		if v.Type.Elem.IsFloat() {
			wrt = append(wrt, v)
		}
	}
	for _, v := range work.Graph.Inits {
		if v.Const.DType().IsFloat() {
			wrt = append(wrt, v)
		}
	}
	g := ops.NewGrad(work, infos)
	loss := g.Node("ReduceSum", 1, []*onnx.Value{work.Graph.Outputs[0]})[0]
	loss = g.Op("Squeeze", loss)
	grads, err := gradient(g, loss, wrt)
	if err != nil {
		return nil, err
	}
	var outs []*onnx.Value
	for _, d := range grads {
		outs = append(outs, d)
	}
	s, err := session(work, outs, runtime.Threads(1))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	vals, err := s.Run(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*tensor.Tensor{}
	for _, v := range wrt {
		if d := grads[v]; d != nil {
			out[v.Name] = vals[d.Name].(*tensor.Tensor)
		} else {
			like, _ := in[v.Name].(*tensor.Tensor)
			if v.Const != nil {
				like = v.Const
			}
			if out[v.Name], err = tensor.Zeros(like.DType(), like.Shape()...); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out, nil
}

// unfold turns the gradients of convolutions into which batch norms were folded into those of the
// parameters: with s = scale/√(variance+ε), W' = W·s and b' = bias − mean·s.
func unfold(t *testing.T, dir string, m *onnx.Model, names Names, got map[string]*tensor.Tensor) {
	t.Helper()
	state, err := npy.ReadNPZ(filepath.Join(dir, "state_dict.npz"))
	if err != nil {
		t.Fatal(err)
	}
	floats := func(name string) []float64 { return tensor.Float64s(state[name]) }
	k := 0
	for _, n := range m.Graph.Nodes {
		if n.Op != "Conv" {
			continue
		}
		k++
		conv, bn := fmt.Sprintf("conv%d.weight", k), fmt.Sprintf("bn%d.", k)
		w, scale, mean, variance := floats(conv), floats(bn+"weight"), floats(bn+"running_mean"), floats(bn+"running_var")
		dW, dB := tensor.Float64s(got[n.Input(1).Name]), tensor.Float64s(got[n.Input(2).Name])
		dScale := make([]float64, len(scale))
		rows := len(w) / len(scale)
		for c := range scale {
			inv := 1 / math.Sqrt(variance[c]+1e-5)
			dScale[c] = -dB[c] * mean[c] * inv
			for i := range rows {
				dScale[c] += dW[c*rows+i] * w[c*rows+i] * inv
				dW[c*rows+i] *= scale[c] * inv
			}
		}
		for name, d := range map[string][]float64{conv: dW, bn + "weight": dScale, bn + "bias": dB} {
			o := names[name]
			o.Initializer, o.Form = name, Verbatim
			names[name] = o
			got[name] = tensor.New(d, o.Shape...)
			m.Graph.AddInit(name, got[name])
		}
	}
}
