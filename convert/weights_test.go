package convert_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/convert"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Weights come back from each kind of file as they went; what does not fit is told all at once, and changes nothing.
func TestWeights(t *testing.T) {
	m, err := onnx.Load("../models/gru_classifier/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"w.safetensors", "w.npz"} {
		path := filepath.Join(t.TempDir(), file)
		if err := convert.WriteWeights(path, convert.Weights(m)); err != nil {
			t.Fatal(err)
		}
		weights, err := convert.ReadWeights(path)
		if err != nil {
			t.Fatal(err)
		}
		fresh := m.Clone()
		for _, v := range fresh.Graph.Inits {
			v.Const = v.Const.Clone()
			clear(v.Const.Bytes())
		}
		if err := convert.SetWeights(fresh, weights, false); err != nil {
			t.Fatal(err)
		}
		for i, v := range fresh.Graph.Inits {
			if string(v.Const.Bytes()) != string(m.Graph.Inits[i].Const.Bytes()) {
				t.Errorf("%s: %s came back otherwise", file, v.Name)
			}
		}
	}
	fresh := m.Clone()
	err = convert.SetWeights(fresh, map[string]*tensor.Tensor{"nobody": tensor.New([]float32{1}), "fc.bias": tensor.New([]float32{1, 2})}, false)
	for _, want := range []string{`no initializer "nobody"`, `"fc.bias" is`, `no weight for initializer "fc.weight"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	if fresh.Graph.Init("fc.bias").Const != m.Graph.Init("fc.bias").Const {
		t.Error("weights were changed in spite of the errors")
	}
	if _, err := convert.ReadWeights("model.onnx"); err == nil {
		t.Error("weights are read from a model file")
	}
}

// Weights within others are found by their names, wherever those begin, and are not guessed at where there are two.
func TestUnwrapped(t *testing.T) {
	known := func(name string) bool { return name == "fc.weight" || name == "fc.bias" }
	w := tensor.New([]float32{1})
	for _, c := range []struct {
		names string
		want  string // joined, or a part of the error
	}{
		{"fc.bias fc.weight", "fc.bias fc.weight"},
		{"fc.bias module.fc.weight", "fc.bias module.fc.weight"},
		{"optimizer.state.0.exp_avg state_dict.fc.bias state_dict.fc.weight", "fc.bias fc.weight"},
		{"state_dict.module.fc.weight state_dict.module.more", "fc.weight more"},
		{"ema.fc.bias model.fc.bias model.fc.weight", "fc.bias fc.weight"},
		{"a.fc.bias b.fc.bias", `under "a." and under "b."`},
		{"other.bias", "other.bias"},
	} {
		weights := map[string]*tensor.Tensor{}
		for _, name := range strings.Fields(c.names) {
			weights[name] = w
		}
		got, err := convert.Unwrapped(weights, known)
		if names := strings.Join(slices.Sorted(maps.Keys(got)), " "); err == nil && names != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v", c.names, names, err)
		}
	}
}
