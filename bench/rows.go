package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// row is one line of the table: a model file's bytes and its inputs.
type row struct {
	name   string
	model  func() ([]byte, error)
	inputs func(m *onnx.Model) (map[string]tensor.Value, error)
	// quantized says that activations are rounded to bytes, where the last bit of a float may move a whole step.
	quantized bool
	file      string // of a row that is timed from before its file is opened to its first outputs; else ""
}

// exported are the rows of rows.json in the folder that export.py has written.
func exported(folder string) ([]row, error) {
	if folder == "" {
		return nil, nil
	}
	text, err := os.ReadFile(filepath.Join(folder, "rows.json"))
	if err != nil {
		return nil, err
	}
	var entries []struct {
		Row, Model string
		Quantized  bool
		Load       bool
		Inputs     map[string]struct {
			Shape []int
			Below int64
		}
	}
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, err
	}
	var rows []row
	for _, e := range entries {
		file := ""
		if e.Load {
			file = filepath.Join(folder, e.Model)
		}
		rows = append(rows, row{name: e.Row, quantized: e.Quantized, file: file, model: func() ([]byte, error) { return os.ReadFile(filepath.Join(folder, e.Model)) },
			inputs: func(*onnx.Model) (map[string]tensor.Value, error) {
				r := rand.New(rand.NewPCG(1, 2))
				in := map[string]tensor.Value{}
				for _, name := range slices.Sorted(maps.Keys(e.Inputs)) {
					in[name] = random(r, e.Inputs[name].Below, e.Inputs[name].Shape)
				}
				return in, nil
			}})
	}
	return rows, nil
}

// random is integers below a bound, or normal numbers where it is 0.
func random(r *rand.Rand, below int64, shape []int) *tensor.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	if below > 0 {
		v := make([]int64, n)
		for i := range v {
			v[i] = r.Int64N(below)
		}
		return tensor.New(v, shape...)
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return tensor.New(v, shape...)
}

// products are single matrix products [m, k]·[k, n] of two inputs.
func products() []row {
	var rows []row
	for _, s := range [][3]int{{512, 512, 512}, {1024, 1024, 1024}, {128, 768, 3072}, {128, 768, 768}, {3136, 576, 64}} {
		m, k, n := s[0], s[1], s[2]
		rows = append(rows, row{name: fmt.Sprintf("sgemm %d×%d×%d", m, n, k), model: func() ([]byte, error) {
			b := onnx.NewBuilder("product", 17)
			y := b.Op("MatMul", b.Input("a", tensor.Float32, m, k), b.Input("b", tensor.Float32, k, n))
			b.Output("y", y, tensor.Float32, m, n)
			model, err := b.Model()
			if err != nil {
				return nil, err
			}
			return onnx.Encode(model)
		}, inputs: func(*onnx.Model) (map[string]tensor.Value, error) {
			r := rand.New(rand.NewPCG(1, 2))
			return map[string]tensor.Value{"a": random(r, 0, []int{m, k}), "b": random(r, 0, []int{k, n})}, nil
		}})
	}
	return rows
}

// recordedModels are folders with a model.onnx and a first data set.
func recordedModels(folder string) []row {
	files, _ := filepath.Glob(filepath.Join(folder, "*", "model.onnx"))
	var rows []row
	for _, f := range files {
		dir := filepath.Dir(f)
		rows = append(rows, row{name: "real " + filepath.Base(dir), model: func() ([]byte, error) { return os.ReadFile(f) },
			inputs: func(m *onnx.Model) (map[string]tensor.Value, error) {
				in := map[string]tensor.Value{}
				i := 0
				for _, v := range m.Graph.Inputs {
					if v.Const != nil {
						continue
					}
					data, err := os.ReadFile(filepath.Join(dir, "test_data_set_0", fmt.Sprintf("input_%d.pb", i)))
					if err != nil {
						return nil, err
					}
					if in[v.Name], err = onnx.DecodeValue(data, v.Type); err != nil {
						return nil, err
					}
					i++
				}
				return in, nil
			}})
	}
	return rows
}

// time runs a row on both sides.
func (r row) time(ctx context.Context, threads int, span time.Duration) (*result, error) {
	data, err := r.model()
	if err != nil {
		return nil, err
	}
	m, err := onnx.Decode(data)
	if err != nil {
		return nil, err
	}
	inputs, err := r.inputs(m)
	if err != nil {
		return nil, err
	}
	session, err := runtime.NewSession(m, runtime.Threads(threads))
	if err != nil {
		return nil, err
	}
	defer session.Close()
	ours, err := session.Run(ctx, inputs)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(ours, func(_ string, v tensor.Value) bool { _, ok := v.(*tensor.Tensor); return !ok })
	us := func() error { return session.RunInto(ctx, inputs, ours) } // as ONNX Runtime, which has the memory of its last outputs back
	peer, err := newPeer("", data, m, inputs, threads)
	if err != nil {
		return nil, &refusal{err}
	}
	defer peer.close()
	res := &result{Row: r.name}
	theirs, err := peer.outputs()
	if err != nil {
		return nil, err
	}
	for i, v := range m.Graph.Outputs {
		a, ok := ours[v.Name].(*tensor.Tensor)
		if !ok || theirs[i] == nil {
			continue
		}
		d, err := difference(a, theirs[i], r.quantized)
		if err != nil {
			return nil, fmt.Errorf("output %q: %w", v.Name, err)
		}
		res.Difference = max(res.Difference, d)
	}
	limit := 1e-2
	if r.quantized {
		limit = 5e-2
	}
	if !(res.Difference < limit) {
		return nil, fmt.Errorf("the two sides' outputs differ by %g", res.Difference)
	}
	res.Ours, res.Peer, res.Others, err = compare(us, peer.run, threads, span)
	res.Ratio = res.Ours.Median / res.Peer.Median
	return res, err
}

// difference is the greatest |a-b| / (1 + |b|), or the length of a-b over that of b.
func difference(a *tensor.Tensor, b []float32, lengths bool) (float64, error) {
	if a.Len() != len(b) {
		return 0, fmt.Errorf("%d elements beside %d", a.Len(), len(b))
	}
	worst, apart, length := 0.0, 0.0, 0.0
	for i, y := range b {
		d := math.Abs(tensor.Float64At(a, i) - float64(y))
		apart += d * d
		length += float64(y) * float64(y)
		if d /= 1 + math.Abs(float64(y)); !(d <= worst) {
			worst = d
		}
	}
	if lengths && length > 0 {
		return math.Sqrt(apart / length), nil
	}
	return worst, nil
}
