package difftest

import (
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Images in blocks come from ReorderInput and go to ReorderOutput, for only what is between them is anyone's to see. Channels are such that blocks
// of 8 and of 16 make the same counts.
func init() {
	const domain = "com.microsoft.nchwc."
	channels := func(g *gen) int {
		g.dtype = tensor.Float32
		return one(g, 12, 16, 28, 32)
	}
	whole := func(c int) int { return (c + 15) / 16 * 16 }
	blocked := func(g *gen, x *onnx.Value) *onnx.Value { return g.beside("ReorderInput", []*onnx.Value{x}) }
	ordinary := func(g *gen, channels int) {
		g.then = func(y *onnx.Value) *onnx.Value {
			return g.beside("ReorderOutput", []*onnx.Value{y}, onnx.IntAttr("channels", int64(channels)))
		}
	}
	generators[domain+"ReorderInput"] = func(g *gen) {
		c := channels(g)
		ordinary(g, c)
		x := []int{g.in(1, 2), c, g.in(1, 4), g.in(1, 4)}
		if g.chance(2) {
			g.int("channels_last", 1)
			x[1], x[3] = x[3], x[1]
		}
		g.node(1, g.rand(x...))
	}
	generators[domain+"ReorderOutput"] = func(g *gen) {
		c := channels(g)
		x := blocked(g, g.rand(g.in(1, 2), c, g.in(1, 4), g.in(1, 4)))
		g.int("channels", c)
		g.maybe("channels_last", 0, 1)
		g.node(1, x)
	}
	generators[domain+"Conv"] = func(g *gen) {
		g.plain = true
		win := g.window(2, true)
		g.ints("kernel_shape", int64s(win.kernel)...)
		in, out := one(g, 1, 3, 7, 12, 16, 32), channels(g)
		x := []int{g.in(1, 2), in, win.least(0) + g.in(0, 5), win.least(1) + g.in(0, 5)}
		w := []int{whole(out), in, win.kernel[0], win.kernel[1]}
		image := g.rand(x...)
		if in >= 12 {
			image = blocked(g, image)
			switch w[1] = whole(in); {
			case g.chance(3): // a filter a channel
				w[0], w[1], out = w[1], 1, in
				g.int("group", w[0])
			case in == 32 && g.chance(2):
				w[1], w[0], out = 16, 32, 32
				g.int("group", 2)
			}
		}
		inputs := []*onnx.Value{image, g.b.Const(g.tensor(g.dtype, w...)), nil, nil}
		if g.chance(2) {
			inputs[2] = g.rand(w[0])
		}
		if g.chance(4) {
			more := onnx.NewNode("Conv", []*onnx.Value{image, g.b.Const(g.tensor(g.dtype, w...))})
			more.Domain, more.Attrs = g.def.Domain, g.attrs
			more.AddOutput(&onnx.Value{Name: "more"})
			inputs[3] = g.b.Add(more)[0]
		}
		switch activation := one(g, "", "Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "HardSigmoid"); activation {
		case "":
		case "LeakyRelu":
			g.floats("activation_params", 0.2)
			g.str("activation", activation)
		case "Clip":
			g.floats("activation_params", -1, 2)
			g.str("activation", activation)
		case "HardSigmoid":
			g.floats("activation_params", 0.3, 0.4)
			g.str("activation", activation)
		default:
			g.str("activation", activation)
		}
		ordinary(g, out)
		g.node(1, inputs...)
	}
	each(domain+"MaxPool "+domain+"AveragePool", func(g *gen) {
		g.plain = true
		win := g.window(2, g.def.Name == "MaxPool")
		g.ints("kernel_shape", int64s(win.kernel)...)
		if g.def.Name == "AveragePool" {
			g.maybe("count_include_pad", 0, 1)
		}
		c := channels(g)
		ordinary(g, c)
		g.node(1, blocked(g, g.rand(g.in(1, 2), c, win.least(0)+g.in(0, 6), win.least(1)+g.in(0, 6))))
	})
	each(domain+"GlobalMaxPool "+domain+"GlobalAveragePool", func(g *gen) {
		g.plain = true
		c := channels(g)
		ordinary(g, c)
		g.node(1, blocked(g, g.rand(g.in(1, 2), c, g.in(1, 5), g.in(1, 5))))
	})
	generators[domain+"Upsample"] = func(g *gen) {
		g.plain = true
		c := channels(g)
		ordinary(g, c)
		g.ints("scales", 1, 1, int64(g.in(1, 4)), int64(g.in(1, 4)))
		if g.chance(2) {
			g.str("mode", "linear")
			g.str("coordinate_transformation_mode", one(g, "asymmetric", "align_corners", "half_pixel"))
		}
		g.node(1, blocked(g, g.rand(g.in(1, 2), c, g.in(2, 4), g.in(2, 4))))
	}
}
