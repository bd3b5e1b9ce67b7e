package ops_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// A layer whose units are shared out among threads gives what one thread gives, to the bit.
func TestRecurrentLayersOnManyThreads(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	random := func(shape ...int) *tensor.Tensor {
		x, _ := tensor.Zeros(tensor.Float32, shape...)
		for i := range tensor.Data[float32](x) {
			tensor.Data[float32](x)[i] = float32(r.NormFloat64()) / 4
		}
		return x
	}
	gates := map[string]int{"RNN": 1, "LSTM": 4, "GRU": 3}
	for kind, g := range gates {
		for _, h := range []int{20, 64, 131, 256} {
			for _, how := range []string{"forward", "reverse", "bidirectional"} {
				for variant := range 4 {
					steps, batch, in, dirs := 12, 1+variant*3, 40, 1
					if how == "bidirectional" {
						dirs = 2
					}
					b := onnx.NewBuilder("layer", 17)
					x := b.Input("x", tensor.Float32, steps, batch, in)
					args := []*onnx.Value{x, b.Init("w", random(dirs, g*h, in)), b.Init("r", random(dirs, g*h, h)), b.Init("b", random(dirs, 2*g*h)), nil, b.Init("h0", random(dirs, batch, h))}
					attrs := []*onnx.Attribute{onnx.IntAttr("hidden_size", int64(h)), onnx.StringAttr("direction", how)}
					if kind == "GRU" {
						attrs = append(attrs, onnx.IntAttr("linear_before_reset", int64(variant%2)))
					}
					if variant == 2 {
						lens := make([]int32, batch)
						for i := range lens {
							lens[i] = int32(r.IntN(steps + 1))
						}
						args[4] = b.Init("lens", tensor.New(lens))
					}
					if kind == "LSTM" {
						args = append(args, b.Init("c0", random(dirs, batch, h)))
						if variant == 3 {
							args = append(args, b.Init("p", random(dirs, 3*h)))
						}
					}
					outs := b.Multi(kind, 2, args)
					outs[0].Def().Attrs = attrs
					b.Output("y", outs[0], tensor.Float32, steps, dirs, batch, h)
					b.Output("h", outs[1], tensor.Float32, dirs, batch, h)
					m, err := b.Model()
					if err != nil {
						t.Fatal(err)
					}
					value := random(steps, batch, in)
					var want map[string]tensor.Value
					for _, threads := range []int{1, 2, 4} {
						name := fmt.Sprintf("%s of %d, %s, variant %d, %d threads", kind, h, how, variant, threads)
						s, err := runtime.NewSession(m, runtime.Threads(threads))
						if err != nil {
							t.Fatalf("%s: %v", name, err)
						}
						for range 3 {
							got, err := s.Run(context.Background(), map[string]tensor.Value{"x": value})
							if err != nil {
								t.Fatalf("%s: %v", name, err)
							}
							if want == nil {
								want = got
							}
							for out, v := range got {
								if !slices.Equal(tensor.Data[float32](v.(*tensor.Tensor)), tensor.Data[float32](want[out].(*tensor.Tensor))) {
									t.Errorf("%s: %s differs", name, out)
								}
							}
						}
						s.Close()
					}
				}
			}
		}
	}
}
