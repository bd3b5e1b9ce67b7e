package runtime

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// A model in blocks gives away how many channels they have where no other number would do.
func TestBlocksOfChannels(t *testing.T) {
	for _, c := range []struct{ block, in, out int }{{8, 8, 24}, {8, 24, 16}, {16, 32, 16}, {16, 8, 16}} {
		random := rand.New(rand.NewPCG(1, uint64(c.block+c.in)))
		filled := func(shape ...int) *tensor.Tensor {
			x, err := tensor.Zeros(tensor.Float32, shape...)
			if err != nil {
				t.Fatal(err)
			}
			for i := range tensor.Data[float32](x) {
				tensor.Data[float32](x)[i] = float32(random.NormFloat64())
			}
			return x
		}
		x, w := filled(1, c.in, 5, 6), filled(c.out, c.in, 3, 3)
		model := func(blocked bool) *onnx.Model {
			b := onnx.NewBuilder("conv", 17)
			b.Import("com.microsoft.nchwc", 1)
			add := func(op string, in []*onnx.Value, attrs ...*onnx.Attribute) *onnx.Value {
				n := onnx.NewNode(op, in)
				if blocked {
					n.Domain = "com.microsoft.nchwc"
				}
				n.Attrs = attrs
				n.AddOutput(&onnx.Value{Name: op})
				return b.Add(n)[0]
			}
			y := b.Input("x", tensor.Float32, x.Shape()[0], c.in, 5, 6)
			if !blocked {
				b.Output("y", add("Conv", []*onnx.Value{y, b.Const(w)}), tensor.Float32)
				m, err := b.Model()
				if err != nil {
					t.Fatal(err)
				}
				return m
			}
			inner := c.block // channels that are read, in a block of the weights
			if c.in < c.block {
				inner = c.in
			} else {
				y = add("ReorderInput", []*onnx.Value{y})
			}
			packed := tensor.New(make([]float32, w.Len()), w.Shape()...)
			k := 0
			for o := 0; o < c.out; o += c.block {
				for i := 0; i < c.in; i += inner {
					for place := range 9 {
						for ii := range inner {
							for oo := range c.block {
								from := ((o+oo)*c.in+i+ii)*9 + place
								if inner < c.block { // each channel's filters are together
									k = ((o/c.block*c.in+ii)*9+place)*c.block + oo
								}
								tensor.Data[float32](packed)[k] = tensor.Data[float32](w)[from]
								k++
							}
						}
					}
				}
			}
			y = add("Conv", []*onnx.Value{y, b.Const(packed)})
			b.Output("y", add("ReorderOutput", []*onnx.Value{y}, onnx.IntAttr("channels", int64(c.out))), tensor.Float32)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		var results []tensor.Value
		for _, blocked := range []bool{false, true} {
			s, err := NewSession(model(blocked))
			if err != nil {
				t.Fatalf("%+v: %v", c, err)
			}
			defer s.Close()
			out, err := s.Run(context.Background(), map[string]tensor.Value{"x": x})
			if err != nil {
				t.Fatalf("%+v: %v", c, err)
			}
			results = append(results, out["y"])
		}
		evident := c.out%16 != 0 || c.in%16 != 0
		if _, _, err := tensor.Compare(results[1], results[0].(*tensor.Tensor), 1e-5, 1e-5); err != nil && evident {
			t.Errorf("blocks of %d channels, %d to %d: %v", c.block, c.in, c.out, err)
		}
	}
}
