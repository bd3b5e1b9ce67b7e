package difftest

import (
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// window is the attributes that convolutions and pools share.
type window struct {
	kernel, strides, dilations []int
	auto                       bool // padded by auto_pad
}

// least is the size that an input of spatial dimension i must have without padding.
func (w window) least(i int) int { return (w.kernel[i]-1)*w.dilations[i] + 1 }

func int64s(v []int) []int64 {
	out := make([]int64, len(v))
	for i := range v {
		out[i] = int64(v[i])
	}
	return out
}

// window of n spatial dimensions; pads that are all below the kernel's size, as pools have them.
func (g *gen) window(n int, dilated bool) (w window) {
	pads := make([]int64, 2*n)
	for i := range n {
		w.kernel = append(w.kernel, g.in(1, 3))
		w.strides = append(w.strides, g.in(1, 3))
		d := 1
		if dilated && g.chance(3) {
			d = g.in(1, 3)
		}
		w.dilations = append(w.dilations, d)
		pads[i], pads[n+i] = int64(g.IntN(w.kernel[i])), int64(g.IntN(w.kernel[i]))
	}
	if g.chance(4) {
		for i := range w.strides {
			w.strides[i] = 1
		}
	} else {
		g.ints("strides", int64s(w.strides)...)
	}
	if slices.Max(w.dilations) > 1 {
		g.ints("dilations", int64s(w.dilations)...)
	}
	switch {
	case g.chance(4):
		g.str("auto_pad", one(g, "SAME_UPPER", "SAME_LOWER", "VALID"))
		w.auto = true
	case g.chance(2):
		if g.chance(4) {
			g.str("auto_pad", "NOTSET")
		}
		g.ints("pads", pads...)
	}
	return w
}

// conv is the shape of an input and a weight for it.
func (g *gen) conv(transposed bool) (x, w []int, win window) {
	g.plain = true // ∞ times the 0 of a padding is nothing that anyone promises
	n := one(g, 1, 2, 2, 2, 3)
	win = g.window(n, true)
	if g.chance(2) {
		g.ints("kernel_shape", int64s(win.kernel)...)
	}
	group := one(g, 1, 1, 2, 3)
	if group > 1 || g.chance(2) {
		g.int("group", group)
	}
	in, out := g.in(1, 3), g.in(1, 3)
	x = []int{g.batch(), group * in}
	w = []int{group * out, in}
	if transposed {
		w = []int{group * in, out}
	}
	for i := range n {
		x = append(x, win.least(i)+g.in(0, 5))
	}
	return x, append(w, win.kernel...), win
}

// batch is how many examples there are: rarely none.
func (g *gen) batch() int {
	if g.chance(40) {
		return 0
	}
	return g.in(1, 2)
}

func init() {
	generators["Conv"] = func(g *gen) {
		x, w, _ := g.conv(false)
		inputs := []*onnx.Value{g.rand(x...), g.rand(w...)}
		if g.chance(2) {
			inputs = append(inputs, g.rand(w[0]))
		}
		g.node(1, inputs...)
	}
	generators["ConvTranspose"] = func(g *gen) {
		x, w, win := g.conv(true)
		group := 1
		for _, a := range g.attrs {
			if a.Name == "group" {
				group = int(a.I)
			}
		}
		n := len(win.kernel)
		switch g.IntN(4) {
		case 0:
			pad := make([]int64, n)
			for i := range pad {
				pad[i] = int64(g.IntN(max(win.strides[i], win.dilations[i])))
			}
			g.ints("output_padding", pad...)
		case 1:
			size := make([]int64, n)
			for i := range size {
				full := win.strides[i]*(x[2+i]-1) + win.least(i)
				size[i] = int64(max(1, full-g.in(0, win.least(i)-1)))
			}
			g.ints("output_shape", size...)
		}
		inputs := []*onnx.Value{g.rand(x...), g.rand(w...)}
		if g.chance(2) {
			inputs = append(inputs, g.rand(w[1]*group))
		}
		g.node(1, inputs...)
	}
	each(`ConvInteger`, func(g *gen) {
		x, w, _ := g.conv(false)
		g.plain = true
		inputs := []*onnx.Value{g.rand(x...), nil, nil, nil}
		xd := g.dtype
		wd := one(g, tensor.Uint8, tensor.Int8)
		inputs[1] = g.feed(g.tensor(wd, w...))
		if g.chance(2) {
			inputs[2] = g.feed(g.tensor(xd))
		}
		if g.chance(2) {
			inputs[3] = g.feed(g.tensor(wd, []int{w[0]}[:g.IntN(2)]...))
		}
		g.node(1, inputs...)
	})
	each(`AveragePool MaxPool LpPool`, func(g *gen) {
		name := g.def.Name
		n := one(g, 1, 2, 2, 2, 3)
		dilated := name == "MaxPool" && g.since >= 10 || name == "AveragePool" && g.since >= 19 || name == "LpPool" && g.since >= 18
		win := g.window(n, dilated)
		g.ints("kernel_shape", int64s(win.kernel)...)
		if name != "LpPool" && g.since >= 10 || name == "LpPool" && g.since >= 18 {
			g.maybe("ceil_mode", 0, 1)
		}
		outs := 1
		switch name {
		case "MaxPool":
			if g.since >= 8 {
				g.maybe("storage_order", 0, 1)
				outs = g.in(1, 2)
			}
		case "AveragePool":
			g.maybe("count_include_pad", 0, 1)
		case "LpPool":
			g.maybe("p", 1, 2, 3)
		}
		x := []int{g.batch(), g.in(1, 3)}
		for i := range n {
			x = append(x, win.least(i)+g.in(0, 6))
		}
		g.plain = true
		g.node(outs, g.rand(x...))
	})
	each(`GlobalAveragePool GlobalMaxPool GlobalLpPool`, func(g *gen) {
		if g.def.Name == "GlobalLpPool" {
			g.maybe("p", 1, 2, 3)
		}
		g.plain = true
		g.node(1, g.rand(g.full(3, 5)...))
	})
	generators["MaxUnpool"] = func(g *gen) {
		n := g.in(1, 3)
		kernel, strides := []int64{}, []int64{}
		x, out := []int{g.in(1, 2), g.in(1, 2)}, []int64{}
		size := 1
		for range n {
			kernel, strides = append(kernel, int64(g.in(1, 3))), append(strides, int64(g.in(1, 3)))
			x = append(x, g.in(1, 3))
			k := len(strides) - 1
			out = append(out, int64(x[2+k]-1)*strides[k]+kernel[k])
			size *= int(out[k])
		}
		g.ints("kernel_shape", kernel...)
		g.ints("strides", strides...)
		if g.chance(3) {
			pads := make([]int64, 2*n)
			for i := range pads {
				pads[i] = int64(g.IntN(int(kernel[i%n])))
			}
			for i := range n { // something is to be left
				if out[i] > pads[i]+pads[n+i] {
					out[i] -= pads[i] + pads[n+i]
				} else {
					pads[i], pads[n+i] = 0, 0
				}
			}
			if size = 1; slices.Max(pads) > 0 {
				g.ints("pads", pads...)
			}
			for _, d := range out {
				size *= int(d)
			}
		}
		at := tensor.New(make([]int64, count(x)), x...)
		plane := count(x[2:])
		for c := range x[0] * x[1] {
			for i, p := range g.Perm(size)[:min(plane, size)] {
				tensor.Data[int64](at)[c*plane+i] = int64(c*size + p)
			}
		}
		inputs := []*onnx.Value{g.rand(x...), g.feed(at)}
		if g.chance(3) {
			inputs = append(inputs, g.int64s(append([]int64{int64(x[0]), int64(x[1])}, out...)...))
		}
		g.node(1, inputs...)
	}
	generators["LRN"] = func(g *gen) {
		g.maybeFloat("alpha", 0, 1)
		g.maybeFloat("beta", 0.1, 1)
		g.maybeFloat("bias", 0.5, 2)
		g.int("size", one(g, 1, 3, 5, 7, 2, 4))
		g.plain = true
		g.node(1, g.rand(g.full(3, 5)...))
	}
	generators["Col2Im"] = func(g *gen) {
		g.plain = true
		n := g.in(1, 3)
		var image, block []int64
		strides, dilations, pads := make([]int64, n), make([]int64, n), make([]int64, 2*n)
		l, k := 1, 1
		for i := range n {
			block = append(block, int64(g.in(1, 3)))
			strides[i], dilations[i] = int64(g.in(1, 2)), int64(g.in(1, 2))
			pads[i], pads[n+i] = int64(g.IntN(2)), int64(g.IntN(2))
			least := (block[i]-1)*dilations[i] + 1
			image = append(image, least+int64(g.IntN(4)))
			l *= int((image[i]+pads[i]+pads[n+i]-least)/strides[i]) + 1
			k *= int(block[i])
		}
		g.ints("strides", strides...)
		g.ints("dilations", dilations...)
		g.ints("pads", pads...)
		g.node(1, g.rand(g.in(1, 2), g.in(1, 2)*k, l), g.int64s(image...), g.int64s(block...))
	}
	generators["Resize"] = resize
	generators["Upsample"] = func(g *gen) {
		if g.since == 10 { // deprecated there
			return
		}
		s := g.full(3, 4)
		scales := make([]float32, len(s))
		for i := range scales {
			scales[i] = 1
			if i >= 2 {
				scales[i] = one[float32](g, 1, 1.5, 2, 2.3, 3)
			}
		}
		g.str("mode", one(g, "nearest", "linear"))
		g.plain = true
		if g.since < 9 {
			g.attrs = append(g.attrs, onnx.FloatsAttr("scales", scales...))
			g.node(1, g.rand(s...))
			return
		}
		g.node(1, g.rand(s...), g.feed(tensor.New(scales, len(scales))))
	}
	generators["GridSample"] = func(g *gen) {
		n := 2
		if g.since >= 20 && g.chance(3) {
			n = 3
		}
		modes := []string{"bilinear", "nearest", "bicubic"}
		if g.since >= 20 {
			modes = []string{"linear", "nearest", "cubic"}
		}
		if n == 3 {
			modes = modes[:2]
		}
		g.str("mode", one(g, modes...))
		g.str("padding_mode", one(g, "zeros", "border", "reflection"))
		g.maybe("align_corners", 0, 1)
		b := g.in(1, 2)
		x, grid := []int{b, g.in(1, 2)}, []int{b}
		for range n {
			x, grid = append(x, g.in(1, 5)), append(grid, g.in(1, 4))
		}
		g.plain = true
		at := g.tensor(one(g, tensor.Float32, tensor.Float64, tensor.Float16), append(grid, n)...)
		for i := range at.Len() {
			tensor.SetFloat64At(at, i, 2.4*g.Float64()-1.2)
		}
		g.node(1, g.rand(x...), g.feed(at))
	}
	generators["AffineGrid"] = func(g *gen) {
		g.maybe("align_corners", 0, 1)
		n := g.in(2, 3)
		size := []int64{int64(g.in(1, 2)), 1}
		for range n {
			size = append(size, int64(g.in(2, 4)))
		}
		g.plain = true
		g.node(1, g.rand(int(size[0]), n, n+1), g.int64s(size...))
	}
	generators["RoiAlign"] = func(g *gen) {
		g.plain = true
		if g.since >= 16 {
			if g.chance(2) {
				g.str("coordinate_transformation_mode", one(g, "half_pixel", "output_half_pixel"))
			}
		}
		g.str("mode", one(g, "avg", "max"))
		g.maybe("output_height", 1, 2, 3)
		g.maybe("output_width", 1, 2, 3)
		g.maybe("sampling_ratio", 0, 1, 2, 3)
		g.maybeFloat("spatial_scale", 0.3, 1.5)
		x := []int{g.in(1, 3), g.in(1, 2), g.in(3, 9), g.in(3, 9)}
		r := g.in(1, 3)
		rois := g.tensor(g.dtype, r, 4)
		for i := range r {
			for k := range 2 {
				lo := g.Float64()*8 - 1
				tensor.SetFloat64At(rois, 4*i+k, lo)
				tensor.SetFloat64At(rois, 4*i+2+k, lo+g.Float64()*6)
			}
		}
		batch := tensor.New(make([]int64, r), r)
		for i := range r {
			tensor.Data[int64](batch)[i] = int64(g.IntN(x[0]))
		}
		g.node(1, g.rand(x...), g.feed(rois), g.feed(batch))
	}
	generators["MaxRoiPool"] = func(g *gen) {
		g.plain = true
		g.ints("pooled_shape", int64(g.in(1, 3)), int64(g.in(1, 3)))
		g.maybeFloat("spatial_scale", 0.3, 1.5)
		x := []int{g.in(1, 3), g.in(1, 2), g.in(3, 9), g.in(3, 9)}
		r := g.in(1, 3)
		rois := g.tensor(g.dtype, r, 5)
		for i := range r {
			lo := [2]int{g.in(0, 6), g.in(0, 6)}
			for k, v := range []int{g.IntN(x[0]), lo[0], lo[1], lo[0] + g.in(0, 5), lo[1] + g.in(0, 5)} {
				tensor.SetFloat64At(rois, 5*i+k, float64(v))
			}
		}
		g.node(1, g.rand(x...), g.feed(rois))
	}
	generators["NonMaxSuppression"] = func(g *gen) {
		b, c, n := g.in(1, 2), g.in(1, 3), g.in(1, 8)
		g.maybe("center_point_box", 0, 1)
		g.plain = true
		boxes := g.tensor(tensor.Float32, b, n, 4)
		for i := range boxes.Len() {
			tensor.SetFloat64At(boxes, i, g.Float64()*3)
		}
		scores := g.tensor(tensor.Float32, b, c, n)
		for i := range scores.Len() {
			tensor.SetFloat64At(scores, i, float64(g.in(0, 20))/20)
		}
		inputs := []*onnx.Value{g.feed(boxes), g.feed(scores), nil, nil, nil}
		if !g.chance(6) {
			inputs[2] = g.int64s(int64(g.in(0, 5)))
		}
		if g.chance(2) {
			inputs[3] = g.feed(tensor.New([]float32{g.Float32()}, 1))
		}
		if g.chance(2) {
			inputs[4] = g.feed(tensor.New([]float32{g.Float32()}, 1))
		}
		g.node(1, inputs...)
	}

	generators["BatchNormalization"] = func(g *gen) {
		g.plain = true
		s := g.full(2, 5)
		c := s[1]
		g.maybeFloat("epsilon", 1e-5, 1e-2)
		outs := 1
		if g.since == 7 {
			g.maybe("spatial", 1)
		}
		if g.since >= 14 && g.chance(3) {
			g.int("training_mode", 1)
			g.maybeFloat("momentum", 0.1, 0.9)
			outs = 3
		}
		variance := g.tensor(g.dtype, c)
		for i := range c {
			tensor.SetFloat64At(variance, i, 0.2+g.Float64())
		}
		g.node(outs, g.rand(s...), g.rand(c), g.rand(c), g.rand(c), g.feed(variance))
	}
	generators["InstanceNormalization"] = func(g *gen) {
		g.plain = true
		s := g.full(3, 5)
		g.maybeFloat("epsilon", 1e-5, 1e-2)
		g.node(1, g.rand(s...), g.rand(s[1]), g.rand(s[1]))
	}
	generators["GroupNormalization"] = func(g *gen) {
		g.plain = true
		s := g.full(3, 5)
		groups := g.in(1, 3)
		s[1] = groups * g.in(1, 3)
		g.int("num_groups", groups)
		g.maybeFloat("epsilon", 1e-5, 1e-2)
		n := s[1]
		if g.since < 21 {
			n = groups
		}
		g.node(1, g.rand(s...), g.rand(n), g.rand(n))
	}
	each(`LayerNormalization RMSNormalization`, func(g *gen) {
		g.plain = true
		s := g.full(1, 4)
		a := len(s) - 1
		if !g.chance(3) {
			a = g.axis(len(s), true)
			g.int("axis", a)
		}
		g.maybeFloat("epsilon", 1e-5, 1e-2)
		if g.chance(3) {
			g.int("stash_type", 1)
		}
		w := s[(a+len(s))%len(s):]
		if g.chance(4) {
			w = w[g.IntN(len(w)+1):]
		}
		inputs := []*onnx.Value{g.rand(s...), g.rand(w...)}
		if g.def.Name == "RMSNormalization" {
			g.node(1, inputs...)
			return
		}
		if g.chance(2) {
			inputs = append(inputs, g.rand(w...))
		}
		g.node(g.in(1, 3), inputs...)
	})
	generators["LpNormalization"] = func(g *gen) {
		g.plain = true
		s := g.full(1, 4)
		g.maybe("p", 1, 2)
		if g.chance(2) {
			g.int("axis", g.axis(len(s), true))
		}
		g.node(1, g.rand(s...))
	}
	generators["MeanVarianceNormalization"] = func(g *gen) {
		if g.since == 1 {
			g.dtype, g.declared = tensor.Float32, true
			g.maybe("across_channels", 0, 1)
			g.maybe("normalize_variance", 0, 1)
			g.node(1, g.rand(g.in(1, 2), g.in(2, 3), g.in(1, 4), g.in(2, 4)))
			return
		}
		g.plain = true
		s := g.full(4, 4)
		if g.chance(2) {
			if axes := g.axes(4, true); len(axes) > 0 {
				g.ints("axes", axes...)
			}
		}
		g.node(1, g.rand(s...))
	}
	each(`RNN LSTM GRU`, recurrent)

	generators["MatMul"] = func(g *gen) {
		g.plain = !g.chance(4)
		a, b := g.factors()
		g.node(1, g.rand(a...), g.rand(b...))
	}
	generators["Gemm"] = func(g *gen) {
		g.plain = true
		m, k, n := g.in(1, 6), g.in(0, 6), g.in(1, 6)
		if !g.chance(8) {
			k = max(k, 1)
		}
		a, b := []int{m, k}, []int{k, n}
		if g.chance(2) {
			g.int("transA", 1)
			a = []int{k, m}
		}
		if g.chance(2) {
			g.int("transB", 1)
			b = []int{n, k}
		}
		g.maybeFloat("alpha", -1, 2)
		g.maybeFloat("beta", -1, 2)
		inputs := []*onnx.Value{g.rand(a...), g.rand(b...)}
		if g.since < 11 || !g.chance(3) {
			inputs = append(inputs, g.rand(one(g, []int{m, n}, []int{n}, []int{1, n}, []int{m, 1}, []int{1}, []int{}, []int{1, 1})...))
		}
		g.node(1, inputs...)
	}
	generators["MatMulInteger"] = func(g *gen) {
		a, b := g.factors()
		ad, bd := g.dtype, one(g, tensor.Uint8, tensor.Int8)
		inputs := []*onnx.Value{g.feed(g.tensor(ad, a...)), g.feed(g.tensor(bd, b...)), nil, nil}
		if g.chance(2) {
			z := []int{}
			if len(a) == 2 && g.chance(2) {
				z = []int{a[0]}
			}
			inputs[2] = g.feed(g.tensor(ad, z...))
		}
		if g.chance(2) {
			z := []int{}
			if len(b) == 2 && g.chance(2) {
				z = []int{b[1]}
			}
			inputs[3] = g.feed(g.tensor(bd, z...))
		}
		g.node(1, inputs...)
	}
	generators["Einsum"] = func(g *gen) {
		g.plain = true
		eq := one(g, "ij,jk->ik", "ij,jk", "bij,bjk->bik", "ii->i", "ii", "ij->ji", "ji", "...ij,...jk->...ik", "i,i", "i,j->ij", "ij->", "ijk,ik->jk",
			"abc,cd,de->abe", "...ii->...i", "b...,b...->...", "bhid,bhjd->bhij", " i j , j k -> i k ", "ij,ij->ij", "...i->...", "iji->j", "a...a->...", "ij...,jk->...ik", "Aa,aB->AB", "ij,kl->ljik")
		if g.chance(2) {
			eq = g.equation()
		}
		dims := map[rune]int{}
		terms := strings.Split(strings.Split(strings.ReplaceAll(eq, " ", ""), "->")[0], ",")
		ell := g.full(0, 2)
		inputs := []*onnx.Value{}
		for _, term := range terms {
			s := []int{}
			dots := 0
			for _, r := range term {
				if r == '.' {
					if dots++; dots == 3 {
						e := slices.Clone(ell)
						if len(terms) > 1 && g.chance(3) {
							for i := range e {
								e[i] = one(g, 1, e[i])
							}
						}
						s = append(s, e...)
					}
					continue
				}
				if dims[r] == 0 {
					dims[r] = g.in(1, 4)
				}
				s = append(s, dims[r])
			}
			inputs = append(inputs, g.rand(s...))
		}
		g.str("equation", eq)
		g.node(1, inputs...)
	}
	generators["Det"] = func(g *gen) {
		g.plain = true
		n := g.in(1, 4)
		g.node(1, g.rand(append(g.full(0, 2), n, n)...))
	}
	each(`NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss`, func(g *gen) {
		g.plain = true
		s := g.full(2, 4)
		c := s[1]
		labels := g.tensor(one(g, tensor.Int32, tensor.Int64), append([]int{s[0]}, s[2:]...)...)
		ignore := -100
		if g.chance(2) {
			ignore = one(g, 0, -1, c)
			g.int("ignore_index", ignore)
		}
		for i := range labels.Len() {
			v := g.IntN(c)
			if g.chance(4) && ignore != -100 && i > 0 {
				v = ignore
			}
			if ignore == 0 && i == 0 {
				v = c - 1
			}
			tensor.SetFloat64At(labels, i, float64(v))
		}
		g.str("reduction", one(g, "none", "sum", "mean"))
		inputs := []*onnx.Value{g.rand(s...), g.feed(labels)}
		if g.chance(2) {
			w := g.tensor(g.dtype, c)
			for i := range c {
				tensor.SetFloat64At(w, i, 0.2+g.Float64())
			}
			inputs = append(inputs, g.feed(w))
		}
		outs := 1
		if g.def.Name == "SoftmaxCrossEntropyLoss" {
			outs = g.in(1, 2)
		}
		g.node(outs, inputs...)
	})
	generators["DFT"] = func(g *gen) {
		g.plain = true
		g.dtype = one(g, tensor.Float32, tensor.Float64)
		s := g.full(2, 3)
		complex := g.chance(2)
		last := 1
		if complex {
			last = 2
		}
		axis := g.axis(len(s), g.since >= 20)
		if axis < 0 {
			axis-- // the last dimension is the complex one
		}
		inputs := []*onnx.Value{g.rand(append(slices.Clone(s), last)...), nil, nil}
		if g.chance(2) {
			inputs[1] = g.feed(tensor.Scalar(int64(g.in(1, 9))))
		}
		if g.since < 20 {
			g.int("axis", axis)
		} else if g.chance(2) {
			inputs[2] = g.feed(tensor.Scalar(int64(axis)))
		}
		if complex {
			g.maybe("inverse", 0, 1)
		} else {
			g.maybe("onesided", 0, 1)
		}
		g.node(1, inputs...)
	}
	generators["STFT"] = func(g *gen) {
		g.plain = true
		g.dtype = one(g, tensor.Float32, tensor.Float64)
		n, step := g.in(2, 9), int64(g.in(1, 5))
		length := n + g.in(0, 20)
		g.maybe("onesided", 0, 1)
		inputs := []*onnx.Value{g.rand(g.in(1, 2), length, 1), g.feed(tensor.Scalar(step)), nil, nil}
		window := g.chance(2)
		if window {
			inputs[2] = g.rand(n)
		}
		if !window || g.chance(2) {
			inputs[3] = g.feed(tensor.Scalar(int64(n)))
		}
		g.node(1, inputs...)
	}
	each(`HannWindow HammingWindow BlackmanWindow`, func(g *gen) {
		g.maybe("periodic", 0, 1)
		g.maybe("output_datatype", int(tensor.Float32), int(tensor.Float64), int(tensor.Float16))
		d := one(g, tensor.Int32, tensor.Int64)
		n := g.tensor(d)
		tensor.SetFloat64At(n, 0, float64(g.in(1, 12)))
		g.node(1, g.feed(n))
	})
	generators["MelWeightMatrix"] = func(g *gen) {
		g.maybe("output_datatype", int(tensor.Float32), int(tensor.Float64), int(tensor.Float16), int(tensor.Int32))
		lo := 50 * g.Float32()
		g.node(1, g.feed(tensor.Scalar(int64(g.in(2, 8)))), g.feed(tensor.Scalar(int64(g.in(16, 64)))), g.feed(tensor.Scalar(int64(8192))),
			g.feed(tensor.Scalar(lo)), g.feed(tensor.Scalar(lo+1000+2000*g.Float32())))
	}
	generators["DeformConv"] = func(g *gen) {
		g.plain = true
		group, offsets := g.in(1, 2), g.in(1, 2)
		n, c, m, k := g.in(1, 2), 2*group*g.in(1, 2), group*g.in(1, 2), []int{g.in(1, 3), g.in(1, 3)}
		in := []int{g.in(4, 6), g.in(4, 6)}
		g.int("group", group)
		g.int("offset_group", offsets)
		stride, pad := g.in(1, 2), g.in(0, 1)
		g.ints("strides", int64(stride), int64(stride))
		g.ints("pads", int64(pad), int64(pad), int64(pad), int64(pad))
		apart := 1
		if g.chance(3) {
			apart = 2
			g.ints("dilations", 2, 2)
		}
		if g.chance(2) {
			g.ints("kernel_shape", int64s(k)...)
		}
		out := []int{}
		for i := range 2 {
			in[i] = max(in[i], (k[i]-1)*apart+1)
			out = append(out, (in[i]+2*pad-(k[i]-1)*apart-1)/stride+1)
		}
		inputs := []*onnx.Value{g.rand(n, c, in[0], in[1]), g.rand(m, c/group, k[0], k[1]), g.rand(n, offsets*k[0]*k[1]*2, out[0], out[1]), nil, nil}
		if g.chance(2) {
			inputs[3] = g.rand(m)
		}
		if g.chance(2) {
			inputs[4] = g.rand(n, offsets*k[0]*k[1], out[0], out[1])
		}
		g.node(1, inputs...)
	}
}

// equation is one of Einsum, of up to three operands, in which letters may be repeated.
func (g *gen) equation() string {
	var terms []string
	seen := ""
	for range g.in(1, 3) {
		term := ""
		for range g.in(0, 3) {
			term += string("ijklB"[g.IntN(5)])
		}
		seen += term
		if g.chance(4) {
			at := g.IntN(len(term) + 1)
			term = term[:at] + "..." + term[at:]
		}
		terms = append(terms, term)
	}
	eq := strings.Join(terms, ",")
	if g.chance(3) {
		return eq
	}
	out := ""
	for _, c := range "ijklB" {
		if strings.ContainsRune(seen, c) && g.chance(2) {
			out += string(c)
		}
	}
	letters := []byte(out)
	g.Shuffle(len(letters), func(i, j int) { letters[i], letters[j] = letters[j], letters[i] })
	if out = string(letters); strings.Contains(eq, "...") {
		at := g.IntN(len(out) + 1)
		out = out[:at] + "..." + out[at:]
	}
	return eq + "->" + out
}

// factors are two shapes that can be multiplied.
func (g *gen) factors() (a, b []int) {
	m, k, n := g.in(1, 6), g.in(1, 6), g.in(1, 6)
	if g.chance(15) {
		k = 0
	}
	batch := g.full(0, 2)
	a, b = append(slices.Clone(batch), m, k), append(slices.Clone(batch), k, n)
	for i := range batch {
		switch g.IntN(4) {
		case 0:
			a[i] = 1
		case 1:
			b[i] = 1
		}
	}
	switch g.IntN(6) {
	case 0:
		a = []int{k}
	case 1:
		b = []int{k}
	case 2:
		b = []int{k, n}
	case 3:
		a = []int{m, k}
	}
	return a, b
}

func resize(g *gen) {
	s := g.full(1, 4)
	g.plain = true
	if !g.widen {
		g.dtype = one(g, tensor.Float32, tensor.Float32, tensor.Float64, tensor.Int32, tensor.Uint8, tensor.Int8, tensor.Float16, tensor.Int64)
	}
	if g.since < 11 {
		scales := make([]float32, len(s))
		for i := range scales {
			scales[i] = one[float32](g, 1, 1, 0.5, 1.5, 2, 2.7)
			if float32(s[i])*scales[i] < 1 {
				scales[i] = 1
			}
		}
		g.str("mode", one(g, "nearest", "linear"))
		g.node(1, g.rand(s...), g.feed(tensor.New(scales, len(scales))))
		return
	}
	mode := one(g, "nearest", "linear", "cubic")
	if mode == "cubic" { // ONNX Runtime's takes the last two dimensions of two or four
		s = one(g, []int{g.in(1, 7), g.in(1, 7)}, []int{g.in(1, 2), g.in(1, 2), g.in(1, 7), g.in(1, 7)})
	}
	g.str("mode", mode)
	transforms := []string{"half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize"}
	if g.since >= 19 {
		transforms = append(transforms, "half_pixel_symmetric")
	}
	if g.since < 13 {
		transforms = append(transforms, "tf_half_pixel_for_nn")
	}
	transform := one(g, transforms...)
	g.str("coordinate_transformation_mode", transform)
	if mode == "nearest" {
		g.str("nearest_mode", one(g, "round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
	}
	if mode == "cubic" {
		g.maybeFloat("cubic_coeff_a", -0.9, -0.4)
		g.maybe("exclude_outside", 0, 1)
	}
	if mode == "linear" && g.since >= 18 {
		g.maybe("antialias", 0, 1)
	}
	if mode == "cubic" && g.since >= 18 && g.chance(3) {
		g.int("antialias", 1)
	}
	var axes []int
	for a := range s {
		axes = append(axes, a)
	}
	if len(s) == 4 && (mode == "cubic" || g.chance(2)) {
		axes = []int{2, 3}
	}
	some := g.since >= 18 && g.chance(3)
	if some {
		var a64 []int64
		if mode != "cubic" {
			axes = axes[g.IntN(len(axes)):]
		}
		for _, a := range axes {
			a64 = append(a64, int64(one(g, a, a-len(s))))
		}
		g.ints("axes", a64...)
	}
	scales, sizes, roi := make([]float32, len(s)), int64s(s), make([]float32, 2*len(s))
	for i := range s {
		scales[i], roi[len(s)+i] = 1, 1
	}
	for _, a := range axes {
		scales[a] = one[float32](g, 1, 0.5, 0.6, 1.5, 2, 2.7, 3)
		if float32(s[a])*scales[a] < 1 {
			scales[a] = 2
		}
		sizes[a] = int64(g.in(1, 9))
		roi[a], roi[len(s)+a] = one[float32](g, 0, 0.1, 0.3), one[float32](g, 1, 0.8, 1.2)
	}
	if some {
		var sc, ro []float32
		var sz []int64
		for _, a := range axes {
			sc, sz = append(sc, scales[a]), append(sz, sizes[a])
		}
		for _, at := range []int{0, len(s)} {
			for _, a := range axes {
				ro = append(ro, roi[at+a])
			}
		}
		scales, sizes, roi = sc, sz, ro
	}
	inputs := []*onnx.Value{g.rand(s...), nil, nil, nil}
	if transform == "tf_crop_and_resize" || g.since < 13 {
		inputs[1] = g.feed(tensor.New(roi, len(roi)))
	}
	if transform == "tf_crop_and_resize" {
		g.maybeFloat("extrapolation_value", -3, 3)
	}
	if g.chance(2) {
		inputs[2] = g.feed(tensor.New(scales, len(scales)))
	} else {
		if g.since < 13 {
			inputs[2] = g.feed(tensor.New([]float32{}, 0))
		}
		inputs[3] = g.int64s(sizes...)
		if g.since >= 18 && len(axes) == len(sizes) && !g.chance(3) {
			g.str("keep_aspect_ratio_policy", one(g, "stretch", "not_larger", "not_smaller"))
		}
	}
	g.node(1, inputs...)
}

func recurrent(g *gen) {
	g.plain = true
	name := g.def.Name
	gates := map[string]int{"RNN": 1, "GRU": 3, "LSTM": 4}[name]
	seq, batch, in, hidden := g.in(1, 4), g.in(1, 3), g.in(1, 4), g.in(1, 4)
	direction := one(g, "forward", "reverse", "bidirectional")
	dirs := 1
	if direction == "bidirectional" {
		dirs = 2
	}
	if direction != "forward" || g.chance(2) {
		g.str("direction", direction)
	}
	g.int("hidden_size", hidden)
	layout := 0
	if g.since >= 14 && g.chance(4) {
		layout = 1
		g.int("layout", 1)
	}
	if g.chance(3) {
		g.float("clip", 0.3+2*g.Float32())
	}
	if name == "GRU" {
		g.maybe("linear_before_reset", 0, 1)
	}
	if name == "LSTM" && g.chance(4) {
		g.int("input_forget", 1)
	}
	if g.chance(3) {
		per := map[string]int{"RNN": 1, "GRU": 2, "LSTM": 3}[name]
		var fs []string
		var alpha, beta []float32
		for range per * dirs {
			f := one(g, "Tanh", "Sigmoid", "Relu", "HardSigmoid", "Softsign", "Softplus", "LeakyRelu", "Elu", "ThresholdedRelu", "ScaledTanh", "Affine")
			fs = append(fs, f)
			switch f {
			case "HardSigmoid", "ScaledTanh", "Affine":
				alpha, beta = append(alpha, 0.2+g.Float32()), append(beta, 0.2+g.Float32())
			case "LeakyRelu", "Elu", "ThresholdedRelu":
				alpha = append(alpha, 0.2+g.Float32())
			}
		}
		g.attrs = append(g.attrs, onnx.StringsAttr("activations", fs...))
		if len(alpha) > 0 {
			g.attrs = append(g.attrs, onnx.FloatsAttr("activation_alpha", alpha...))
		}
		if len(beta) > 0 {
			g.attrs = append(g.attrs, onnx.FloatsAttr("activation_beta", beta...))
		}
	}
	x, state := []int{seq, batch, in}, []int{dirs, batch, hidden}
	if layout == 1 {
		x, state = []int{batch, seq, in}, []int{batch, dirs, hidden}
	}
	inputs := []*onnx.Value{g.rand(x...), g.rand(dirs, gates*hidden, in), g.rand(dirs, gates*hidden, hidden), nil, nil, nil, nil, nil}
	if g.chance(2) {
		inputs[3] = g.rand(dirs, 2*gates*hidden)
	}
	if g.chance(2) {
		lens := make([]int32, batch)
		for i := range lens {
			lens[i] = int32(g.in(1, seq)) // of an empty sequence the standard does not say what Y_h is
		}
		inputs[4] = g.feed(tensor.New(lens, batch))
	}
	if g.chance(2) {
		inputs[5] = g.rand(state...)
	}
	outs := g.in(1, 2)
	if name == "LSTM" {
		outs = g.in(1, 3)
		if g.chance(2) {
			inputs[6] = g.rand(state...)
		}
		if g.chance(2) {
			inputs[7] = g.rand(dirs, 3*hidden)
		}
	}
	g.node(outs, inputs...)
}
