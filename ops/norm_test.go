package ops_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// Training at float32 is near the formulas at float64, whether a channel's planes are small, large, one or more, and however far the mean
// is from 0.
func TestTrainingBatchNorm(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, shape := range [][]int{{64, 5}, {8, 3, 2, 2}, {8, 3, 31}, {4, 3, 33}, {3, 2, 70, 70}, {1, 4, 100}, {2, 3, 1}} {
		for _, mean := range []float64{0, 1000} {
			t.Run(fmt.Sprint(shape, mean), func(t *testing.T) {
				n, ch, inner := shape[0], shape[1], 1
				for _, d := range shape[2:] {
					inner *= d
				}
				count := float64(n * inner)
				in := []*tensor.Tensor{randomTensor(r, -1, 1, shape...), randomTensor(r, mean-1, mean+1, shape...), randomTensor(r, 0.5, 2, ch), randomTensor(r, -1, 1, ch)}
				for i := range in {
					in[i], _ = tensor.Convert(in[i], tensor.Float32, true)
				}
				g := &onnx.Graph{Name: "g"}
				var x []*onnx.Value
				for i, t := range in {
					v := &onnx.Value{Name: fmt.Sprint("x", i), Type: onnx.TypeOfTensor(t)}
					g.Inputs, x = append(g.Inputs, v), append(x, v)
				}
				forward := onnx.NewNode("BatchNormalization", x[1:], "y", "mean", "variance")
				backward := onnx.NewNode("BatchNormalizationGrad", []*onnx.Value{x[0], x[1], x[2], forward.Outputs[1], forward.Outputs[2]}, "dx", "dscale", "dbias")
				alone := onnx.NewNode("BatchNormalizationGrad", x[:3], "dx0", "dscale0", "dbias0")
				backward.Attrs = []*onnx.Attribute{ops.IntAttr("training_mode", 1)}
				alone.Attrs = backward.Attrs
				for _, k := range []*onnx.Node{forward, backward, alone} {
					k.Domain, k.Opset = ops.Internal, ops.GradOpset
					g.Nodes, g.Outputs = append(g.Nodes, k), append(g.Outputs, k.Outputs...)
				}
				out := runModel(t, &onnx.Model{IRVersion: 10, Opsets: []onnx.Opset{{Version: 21}}, Graph: g}, in)
				near := func(name string, i int, want, tol float64) {
					if got := tensor.Float64At(out[name].(*tensor.Tensor), i); !(math.Abs(got-want) <= tol) {
						t.Fatalf("%s[%d] = %v, want %v", name, i, got, want)
					}
				}
				at := func(k, c, i int) float64 { return tensor.Float64At(in[k], (i/inner*ch+c)*inner+i%inner) }
				round := 0x1p-23 * (1 + mean) // of x to float32
				for c := range ch {
					var m, v, sum, dot float64
					for i := range n * inner {
						m += at(1, c, i) / count
					}
					for i := range n * inner {
						v += (at(1, c, i) - m) * (at(1, c, i) - m)
					}
					inv := 1 / math.Sqrt(v/count+1e-5)
					near("mean", c, m, 2*round)
					near("variance", c, v/(count-1), 4*round)
					for i := range n * inner {
						sum += at(0, c, i)
						dot += at(0, c, i) * (at(1, c, i) - m) * inv
					}
					for _, suffix := range []string{"", "0"} {
						near("dbias"+suffix, c, sum, 0x1p-21*count)
						near("dscale"+suffix, c, dot, 4*round*inv*count)
					}
					scale, bias := tensor.Float64At(in[2], c), tensor.Float64At(in[3], c)
					for i := range n * inner {
						e := (i/inner*ch+c)*inner + i%inner
						norm := (at(1, c, i) - m) * inv
						near("y", e, scale*norm+bias, 8*round*inv)
						for _, suffix := range []string{"", "0"} {
							near("dx"+suffix, e, scale*inv*(at(0, c, i)-sum/count-norm*dot/count), 16*round*inv*inv)
						}
					}
				}
			})
		}
	}
}
