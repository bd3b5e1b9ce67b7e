package runtime

import (
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// convBatchNorm folds a batch norm of inference into the convolution before it.
func convBatchNorm(r *rewriter) {
	for _, n := range slices.Clone(r.graph.Nodes) {
		if !is(n, "Conv") || len(n.Outputs) != 1 {
			continue
		}
		bn := r.next(n.Outputs[0])
		if bn == nil || bn.Inputs[0] != n.Outputs[0] {
			continue
		}
		line, ok := r.lineOf(bn)
		w, b := r.constant(n.Inputs[1]), r.constant(n.Input(2))
		if w == nil || w.DType() != tensor.Float32 || w.Rank() < 3 || n.Input(2) != nil && b == nil {
			continue
		}
		channels := w.Shape()[0]
		if b != nil && (b.DType() != tensor.Float32 || b.Len() != channels) || !ok || len(line) != channels || w.Len() == 0 {
			continue
		}
		weights, bias := w.Clone(), make([]float32, channels)
		data, each := tensor.Data[float32](weights), w.Len()/channels
		for c, l := range line {
			for i := c * each; i < (c+1)*each; i++ {
				data[i] = float32(float64(data[i]) * l[0])
			}
			shift := l[1]
			if b != nil {
				shift += float64(tensor.Data[float32](b)[c]) * l[0]
			}
			bias[c] = float32(shift)
		}
		fresh := onnx.NewNode("Conv", []*onnx.Value{n.Inputs[0], r.init(n.Inputs[1], weights), r.init(bn.Inputs[2], tensor.New(bias))})
		fresh.Attrs, fresh.Opset = n.Attrs, n.Opset
		r.put(fresh, bn, n)
	}
}

// lineOf is the factor and the term that a batch norm of inference comes down to for each channel.
func (r *rewriter) lineOf(bn *onnx.Node) (line [][2]float64, ok bool) {
	if !is(bn, "BatchNormalization") || r.since(bn) < 7 || bn.Int("training_mode", 0) != 0 || len(bn.Outputs) > 1 || bn.Int("spatial", 1) == 0 {
		return nil, false
	}
	var stats [4][]float32 // scale, bias, mean, variance
	for i := range stats {
		t := r.constant(bn.Inputs[1+i])
		if t == nil || t.DType() != tensor.Float32 {
			return nil, false
		}
		if stats[i] = tensor.Data[float32](t); len(stats[i]) != len(stats[0]) {
			return nil, false
		}
	}
	eps := float64(bn.Float("epsilon", 1e-5))
	line = make([][2]float64, len(stats[0]))
	for c := range line {
		scale := float64(stats[0][c]) / math.Sqrt(float64(stats[3][c])+eps)
		line[c] = [2]float64{scale, float64(stats[1][c]) - float64(stats[2][c])*scale}
	}
	return line, true
}
