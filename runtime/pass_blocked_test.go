package runtime_test

import (
	"fmt"
	"testing"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// A Resize between convolutions takes its image in blocks, and only what it may.
func TestResizeInBlocks(t *testing.T) {
	if kernel.Block() == 0 {
		t.Skip("no assembly")
	}
	for _, c := range []struct {
		mode, coordinates string
		scales            []float32
		sizes             []int64
		stays             bool // outside of blocks
	}{
		{mode: "nearest", coordinates: "asymmetric", scales: []float32{1, 1, 2, 2}},
		{mode: "nearest", coordinates: "half_pixel", scales: []float32{1, 1, 1.7, 0.6}},
		{mode: "linear", coordinates: "align_corners", sizes: []int64{2, 20, 9, 14}},
		{mode: "linear", coordinates: "pytorch_half_pixel", scales: []float32{1, 1, 0.5, 3}},
		{mode: "cubic", coordinates: "half_pixel", scales: []float32{1, 1, 2, 1}},
		{mode: "nearest", coordinates: "asymmetric", sizes: []int64{2, 40, 5, 6}, stays: true},
		{mode: "nearest", coordinates: "asymmetric", scales: []float32{1, 2, 1, 1}, stays: true},
		{mode: "nearest", coordinates: "tf_half_pixel_for_nn", scales: []float32{1, 1, 2, 2}, stays: true},
	} {
		b := onnx.NewBuilder("resize", 18)
		conv := func(x *onnx.Value, channels, of int) *onnx.Value {
			return b.Node("Conv", []*onnx.Value{x, b.Const(random(channels, of, 3, 3))}, onnx.IntsAttr("pads", 1, 1, 1, 1))
		}
		in := []*onnx.Value{conv(b.Input("x", tensor.Float32, 2, 3, 5, 6), 20, 3), nil, nil, nil}
		channels := 20
		if c.scales != nil {
			in[2] = b.Const(tensor.New(c.scales))
			channels = int(20 * c.scales[1])
		} else {
			in[3] = b.Const(tensor.New(c.sizes))
			channels = int(c.sizes[1])
		}
		y := b.Node("Resize", in, onnx.StringAttr("mode", c.mode), onnx.StringAttr("coordinate_transformation_mode", c.coordinates))
		b.OutputOf("y", conv(y, 16, channels), nil)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		x := map[string]tensor.Value{"x": random(2, 3, 5, 6)}
		want := runWith(t, m, x, runtime.WithoutPass("blocked"))["y"].(*tensor.Tensor)
		p := runtime.Profile{Trace: true}
		got := runWith(t, m, x, runtime.WithProfile(&p))["y"].(*tensor.Tensor)
		turns := ""
		for _, s := range p.Spans {
			if s.Op == "ToBlocked" || s.Op == "FromBlocked" {
				turns += " " + s.Op
			}
		}
		expect := " FromBlocked"
		if c.stays {
			expect += " ToBlocked FromBlocked"
		}
		name := fmt.Sprintf("%s, %s, scales %v, sizes %v", c.mode, c.coordinates, c.scales, c.sizes)
		if turns != expect {
			t.Errorf("%s: went through%s, not%s", name, turns, expect)
		}
		if _, _, err := tensor.Compare(got, want, 1e-4, 1e-4); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Sums of images whose sizes have names are in blocks whether or not one of them turns out to be repeated.
func TestSumsInBlocks(t *testing.T) {
	if kernel.Block() == 0 {
		t.Skip("no assembly")
	}
	b := onnx.NewBuilder("sum", 18)
	input := func(name string) *onnx.Value {
		x := b.Input(name, tensor.Float32, 1, 3, 4, 4)
		x.Type.Shape = []onnx.Dim{{Value: 1}, {Value: 3}, {Param: name + " rows"}, {Param: name + " columns"}}
		return b.Node("Conv", []*onnx.Value{x, b.Const(random(20, 3, 3, 3))}, onnx.IntsAttr("pads", 1, 1, 1, 1))
	}
	b.OutputOf("y", b.Op("Add", input("a"), input("b")), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	for _, sizes := range [][4]int{{5, 7, 5, 7}, {5, 7, 1, 7}, {1, 1, 5, 7}} {
		in := map[string]tensor.Value{"a": random(1, 3, sizes[0], sizes[1]), "b": random(1, 3, sizes[2], sizes[3])}
		want := runWith(t, m, in, runtime.WithoutPass("blocked"))["y"].(*tensor.Tensor)
		p := runtime.Profile{Trace: true}
		got := runWith(t, m, in, runtime.WithProfile(&p))["y"].(*tensor.Tensor)
		if _, _, err := tensor.Compare(got, want, 1e-4, 1e-4); err != nil {
			t.Errorf("%v: %v", sizes, err)
		}
		turns := 0
		for _, s := range p.Spans {
			if s.Op == "ToBlocked" || s.Op == "FromBlocked" {
				turns++
			}
		}
		if turns != 1 {
			t.Errorf("%v: images went into and out of blocks %d times, not once", sizes, turns)
		}
	}
}
