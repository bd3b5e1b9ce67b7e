package models_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/retune-go/retune/models"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// shipped are the builders with the sizes of PyTorch's exports.
var shipped = map[string]func() (*onnx.Model, error){
	"simple_rnn": func() (*onnx.Model, error) { return models.SimpleRNN(10, 20, 1, 1) },
	"feedback": func() (*onnx.Model, error) {
		return models.Feedback(models.FeedbackConfig{Input: 10, Hidden: []int{16, 16}, Output: 4})
	},
	"feedback_converge": func() (*onnx.Model, error) {
		return models.Feedback(models.FeedbackConfig{Input: 10, Hidden: []int{16, 16}, Output: 4, Converge: true})
	},
	"char_lstm":         func() (*onnx.Model, error) { return models.CharLSTM(97, 32, 128, 1) },
	"lstm_classifier":   func() (*onnx.Model, error) { return models.LSTMClassifier(14, 48, 10, 1) },
	"gru_classifier":    func() (*onnx.Model, error) { return models.GRUClassifier(117, 24, 48, 10, 1) },
	"mlp":               func() (*onnx.Model, error) { return models.MLP([]int{64, 48, 32, 10}, 1, "Relu", "Tanh") },
	"convnet_preserved": func() (*onnx.Model, error) { return models.ConvNet(1, 14, 10, 1) },
	"transformer": func() (*onnx.Model, error) {
		return models.Transformer(models.TransformerConfig{Vocab: 97, Context: 64, Width: 64, Layers: 2, Heads: 4, Seed: 1})
	},
}

// recurrentParts are the names of a recurrent layer's initializers here, by the rank and place of what PyTorch exports.
var recurrentParts = map[string]string{"weight_ih_l0": "W", "weight_hh_l0": "R", "bias_ih_l0": "B"}

// With the weights of PyTorch's export each built network gives PyTorch's recorded outputs.
func TestBuiltNetworksAreTheExportedOnes(t *testing.T) {
	for dir, build := range shipped {
		t.Run(dir, func(t *testing.T) {
			m, err := build()
			if err != nil {
				t.Fatal(err)
			}
			exported, err := onnx.Load(filepath.Join(dir, "model.onnx"))
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join(dir, "names.json"))
			if err != nil {
				t.Fatal(err)
			}
			var names map[string]*struct{ Initializer, Form string }
			if err := json.Unmarshal(text, &names); err != nil {
				t.Fatal(err)
			}
			filled := map[string]bool{}
			for name, at := range names {
				if at == nil || at.Initializer == "" {
					continue // a counter that the export dropped
				}
				to := name
				if at.Form == "gates" {
					layer, part := filepath.Ext(name), recurrentParts[filepath.Ext(name)[1:]]
					if part == "" {
						continue // the same initializer again
					}
					to = name[:len(name)-len(layer)] + "." + part
				}
				v, src := m.Graph.Init(to), exported.Graph.Init(at.Initializer)
				if v == nil || src == nil {
					t.Fatalf("no initializer %q or %q", to, at.Initializer)
				}
				w := src.Const
				if at.Form == "transposed" {
					rows, cols := w.Shape()[0], w.Shape()[1]
					turned := make([]float32, w.Len())
					for i, x := range tensor.Data[float32](w) {
						turned[i%cols*rows+i/cols] = x
					}
					w = tensor.New(turned, cols, rows)
				}
				if !sameShape(v.Const, w) {
					t.Fatalf("%s is %s, PyTorch's %s", to, v.Const, w)
				}
				v.Const = w
				filled[to] = true
			}
			for _, v := range m.Graph.Inits {
				if len(v.Name) > 6 && !filled[v.Name] && v.Name[:6] != "const_" {
					t.Errorf("no PyTorch parameter for %s", v.Name)
				}
			}
			s, err := runtime.NewSession(m)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			sets, err := filepath.Glob(filepath.Join(dir, "test_data_set_*"))
			if err != nil || len(sets) == 0 {
				t.Fatal("no recorded data", err)
			}
			for _, set := range sets {
				in := map[string]tensor.Value{}
				for i, p := range s.Inputs() {
					in[p.Name] = recorded(t, set, "input", i)
				}
				out, err := s.Run(context.Background(), in)
				if err != nil {
					t.Fatal(err)
				}
				for i, p := range s.Outputs() {
					want, got := recorded(t, set, "output", i).(*tensor.Tensor), out[p.Name].(*tensor.Tensor)
					if !sameShape(got, want) {
						t.Fatalf("%s: %s is %s, PyTorch's %s", set, p.Name, got, want)
					}
					for k := range want.Len() {
						a, b := tensor.Float64At(got, k), tensor.Float64At(want, k)
						if !(math.Abs(a-b) <= 2e-5*(1+math.Abs(b))) {
							t.Fatalf("%s: %s[%d] is %v, PyTorch's %v", set, p.Name, k, a, b)
						}
					}
				}
			}
		})
	}
}

func sameShape(a, b *tensor.Tensor) bool {
	if a.DType() != b.DType() || a.Rank() != b.Rank() {
		return false
	}
	for i, d := range a.Shape() {
		if b.Shape()[i] != d {
			return false
		}
	}
	return true
}

// Sizes that make no network are errors.
func TestBadSizes(t *testing.T) {
	for name, f := range map[string]func() (*onnx.Model, error){
		"zero hidden":      func() (*onnx.Model, error) { return models.SimpleRNN(10, 0, 1, 1) },
		"no hidden layers": func() (*onnx.Model, error) { return models.Feedback(models.FeedbackConfig{Input: 1, Output: 1}) },
		"one size":         func() (*onnx.Model, error) { return models.MLP([]int{3}, 1) },
		"too small":        func() (*onnx.Model, error) { return models.ConvNet(1, 3, 10, 1) },
		"heads": func() (*onnx.Model, error) {
			return models.Transformer(models.TransformerConfig{Vocab: 5, Context: 5, Width: 6, Layers: 1, Heads: 4})
		},
	} {
		if m, err := f(); err == nil || m != nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// recorded is the i-th value of a data set.
func recorded(t *testing.T, set, kind string, i int) tensor.Value {
	data, err := os.ReadFile(filepath.Join(set, fmt.Sprintf("%s_%d.pb", kind, i)))
	if err != nil {
		t.Fatal(err)
	}
	v, err := onnx.DecodeValue(data, &onnx.Type{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}
