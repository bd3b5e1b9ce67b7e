// Package convert is work from model to model: parts of models, comparison of two, weights out and in. What only moves bytes, such as external data, is
// package onnx's; what takes passes, such as [runtime.Simplify], package runtime's.
package convert

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
	"github.com/retune-go/retune/tensor/npy"
	"github.com/retune-go/retune/tensor/ptfile"
	"github.com/retune-go/retune/tensor/safetensors"
)

// Weights is the model's initializers by name.
func Weights(m *onnx.Model) map[string]*tensor.Tensor {
	w := make(map[string]*tensor.Tensor, len(m.Graph.Inits))
	for _, v := range m.Graph.Inits {
		w[v.Name] = v.Const
	}
	return w
}

// SetWeights replaces the initializers of m that weights names. Names that the model has not, and types or shapes that differ, are
// told all at once, and then nothing is changed; unless partial, so are initializers of a floating-point type that weights leaves out.
func SetWeights(m *onnx.Model, weights map[string]*tensor.Tensor, partial bool) error {
	var wrong []error
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		v, w := m.Graph.Init(name), weights[name]
		switch {
		case v == nil:
			wrong = append(wrong, fmt.Errorf("the model has no initializer %q", name))
		case v.Const.DType() != w.DType() || !slices.Equal(v.Const.Shape(), w.Shape()):
			wrong = append(wrong, fmt.Errorf("initializer %q is %s, not %s", name, v.Const, w))
		}
	}
	for _, v := range m.Graph.Inits {
		if _, ok := weights[v.Name]; !ok && !partial && v.Const.DType().IsFloat() {
			wrong = append(wrong, fmt.Errorf("no weight for initializer %q", v.Name))
		}
	}
	if wrong != nil {
		return errors.Join(wrong...)
	}
	for name, w := range weights {
		m.Graph.Init(name).Const = w
	}
	return nil
}

// ReadWeights reads named tensors from a .safetensors, .npz, .pt or .pth file.
func ReadWeights(path string) (map[string]*tensor.Tensor, error) {
	switch filepath.Ext(path) {
	case ".safetensors":
		f, err := safetensors.Read(path)
		if err != nil {
			return nil, err
		}
		return f.Tensors, nil
	case ".npz":
		return npy.ReadNPZ(path)
	case ".pt", ".pth":
		f, err := ptfile.Read(path)
		if err != nil {
			return nil, err
		}
		return f.Tensors, nil
	}
	return nil, fmt.Errorf("%s: weights are read from .safetensors, .npz, .pt and .pth files", path)
}

// Unwrapped is weights as they are if one has a name that is known, else those that do once a prefix is taken from all their names: what trains a module
// saves it beside the optimizer, as {"state_dict": …}, or wrapped, as torch.nn.DataParallel's "module.". Of several prefixes it is the one that makes the
// most names known; where two do, that is an error.
func Unwrapped(weights map[string]*tensor.Tensor, known func(name string) bool) (map[string]*tensor.Tensor, error) {
	count := map[string]int{}
	for name := range weights {
		if known(name) {
			return weights, nil
		}
		for i := range name {
			if name[i] == '.' && known(name[i+1:]) {
				count[name[:i+1]]++
			}
		}
	}
	var best []string
	for _, prefix := range slices.Sorted(maps.Keys(count)) {
		if len(best) == 0 || count[prefix] > count[best[0]] {
			best = []string{prefix}
		} else if count[prefix] == count[best[0]] {
			best = append(best, prefix)
		}
	}
	switch len(best) {
	case 0:
		return weights, nil
	case 1:
	default:
		return nil, fmt.Errorf("the weights are there more than once, under %q and under %q", best[0], best[1])
	}
	inner := map[string]*tensor.Tensor{}
	for name, w := range weights {
		if rest, ok := strings.CutPrefix(name, best[0]); ok {
			inner[rest] = w
		}
	}
	return inner, nil
}

// WriteWeights writes named tensors to a .safetensors or .npz file.
func WriteWeights(path string, weights map[string]*tensor.Tensor) error {
	switch filepath.Ext(path) {
	case ".safetensors":
		return (&safetensors.File{Names: slices.Sorted(maps.Keys(weights)), Tensors: weights}).Write(path)
	case ".npz":
		return npy.WriteNPZ(path, weights)
	}
	return fmt.Errorf("%s: weights are written to .safetensors and .npz files", path)
}
