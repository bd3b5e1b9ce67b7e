package ops

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/retune-go/retune/onnx"
)

// Pooling by rows gives what looking at each window gives, NaN, padding, strides and dilations included, and what it gives is found where it is.
func TestMaxPoolRows(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		attr := func(name string, lo, hi, n int) *onnx.Attribute {
			v := make([]int64, n)
			for i := range v {
				v[i] = int64(lo + r.IntN(hi-lo+1))
			}
			return IntsAttr(name, v...)
		}
		n := &Node{Node: &onnx.Node{Op: "MaxPool"}}
		n.Attrs = []*onnx.Attribute{attr("kernel_shape", 1, 3, 2), attr("strides", 1, 3, 2), attr("dilations", 1, 3, 2), attr("pads", 0, 1, 4), IntAttr("ceil_mode", int64(r.IntN(2)))}
		s, err := poolOf(n, []int{1, 2, 1 + r.IntN(10), 1 + r.IntN(44)})
		if err != nil {
			continue
		}
		x := make([]float32, 2*s.inSize())
		for i := range x {
			if x[i] = float32(r.IntN(9)); r.IntN(30) == 0 { // with ties
				x[i] = float32(math.NaN())
			}
		}
		got := make([]float32, 2*s.outSize())
		maxPoolRows(nil, s, got, x)
		var windows [][3]span3
		s.windows(func(_ int, d, h, w span3) { windows = append(windows, [3]span3{d, h, w}) })
		for plane := range 2 {
			in := x[plane*s.inSize():][:s.inSize()]
			argmax(s, in, func(o, at int) {
				want := float32(math.Inf(-1))
				if at >= 0 {
					want = in[at]
				}
				if g := got[plane*s.outSize()+o]; g != want && (g == g || want == want) {
					t.Fatalf("%v: output %d is %v, want %v", n.Attrs[0].Ints, o, g, want)
				}
				if f := find(s, in, want, windows[o][0], windows[o][1], windows[o][2]); f != at {
					t.Fatalf("%v: output %d is found at %d, want %d", n.Attrs[0].Ints, o, f, at)
				}
			})
		}
	}
}
