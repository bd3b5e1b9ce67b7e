package finetune

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/retune-go/retune/tensor"
)

// resized is c with every size from of its floating-point inputs cut to the size to. If first, it is only the first size that is cut, and
// of integers too.
func (c *gradCase) resized(from, to int, first bool) *gradCase {
	v := *c
	v.name = fmt.Sprintf("%s, %d for %d", c.name, to, from)
	made := map[*gradInput]*gradInput{}
	v.in = slices.Clone(c.in)
	for i, in := range c.in {
		if in == nil {
			continue
		}
		if made[in] == nil {
			cut := *in
			cut.make = func(r *rand.Rand) *tensor.Tensor {
				t := in.make(r)
				if !t.DType().IsFloat() && !(first && t.DType().IsInteger()) {
					return t
				}
				shape := slices.Clone(t.Shape())
				for k, d := range shape {
					if d == from && (k == 0 || !first) {
						shape[k] = to
					}
				}
				return corner(t, shape)
			}
			made[in] = &cut
		}
		v.in[i] = made[in]
	}
	return &v
}

// corner is the first elements along each axis.
func corner(t *tensor.Tensor, shape []int) *tensor.Tensor {
	out, err := tensor.Zeros(t.DType(), shape...)
	if err != nil {
		panic(err)
	}
	for i := range out.Len() {
		at, step, rest := 0, 1, i
		for k := len(shape) - 1; k >= 0; k-- {
			at += rest % shape[k] * step
			rest, step = rest/shape[k], step*t.Shape()[k]
		}
		tensor.SetFloat64At(out, i, tensor.Float64At(t, at))
	}
	return out
}

// TestGradientsOfSmallShapes is every case again with sizes of 1, and with a first size of 0, where the operator takes them.
func TestGradientsOfSmallShapes(t *testing.T) {
	var ran, all atomic.Int64
	t.Run("all", func(t *testing.T) {
		for _, c := range gradCases() {
			if c.refused != "" || c.graph != nil || len(c.in) == 0 {
				continue
			}
			variants := map[string]*gradCase{}
			vals, _ := c.draw()
			// Those whose shapes are not checked where nothing comes out.
			unchecked := strings.HasPrefix(c.op, "Scatter") || slices.Contains([]string{"LinearAttention", "FeatureVectorizer", "MatMulIntegerToFloat", "OneHot"}, c.op) ||
				strings.HasPrefix(c.name, "a mask's own")
			for _, in := range c.in {
				if in == nil || unchecked || !vals[in].DType().IsFloat() {
					continue
				}
				for k, d := range vals[in].Shape() {
					if d > 1 {
						variants[fmt.Sprint(d, " to 1")] = c.resized(d, 1, false)
					}
					if k == 0 && d > 0 && c.in[0] != nil && vals[c.in[0]].Rank() > 0 && vals[c.in[0]].Shape()[0] == d {
						variants[fmt.Sprint("first ", d, " to 0")] = c.resized(d, 0, true)
					}
				}
			}
			for name, v := range variants {
				t.Run(fmt.Sprintf("%s-%d/%s/%s", c.op, c.opset, c.name, name), func(t *testing.T) {
					t.Parallel()
					all.Add(1)
					if v.check(t, 2, true) {
						ran.Add(1)
					}
				})
			}
		}
	})
	if t.Logf("%d of %d shapes are the operators'", ran.Load(), all.Load()); 3*ran.Load() < all.Load() {
		t.Error("most variants cannot be run")
	}
}

// TestGradientsOfOtherTypes is every case again in float32 and float16, and each operator's first in bfloat16, where the operator has them: its gradients are those in float64 at the
// same numbers, within the type's rounding.
func TestGradientsOfOtherTypes(t *testing.T) {
	ran := map[tensor.DType]*atomic.Int64{}
	bounds := map[tensor.DType]float64{tensor.Float32: 1e-4, tensor.Float16: 0.03, tensor.BFloat16: 0.2}
	for d := range bounds {
		ran[d] = new(atomic.Int64)
	}
	t.Run("all", func(t *testing.T) {
		seen := map[string]bool{}
		for _, c := range gradCases() {
			if c.refused != "" || c.graph != nil {
				continue
			}
			for d, bound := range bounds {
				if d == tensor.BFloat16 && seen[c.op] || d != tensor.Float32 && strings.Contains(c.name, "clip") { // rounding moves numbers over a clip's edge
					continue
				}
				t.Run(fmt.Sprintf("%s-%d/%s/%s", c.op, c.opset, c.name, d), func(t *testing.T) {
					t.Parallel()
					if c.compare(t, d, bound) {
						ran[d].Add(1)
					}
				})
			}
			seen[c.op] = true
		}
	})
	for d, n := range ran {
		if t.Logf("%s: %d cases", d, n.Load()); n.Load() < 100 {
			t.Errorf("only %d cases can be run in %s", n.Load(), d)
		}
	}
}

// compare holds the gradients in element type d against those in float64, by each one's greatest element. It reports whether the node can be run so.
func (c *gradCase) compare(t *testing.T, d tensor.DType, bound float64) bool {
	wide, inputs := c.draw()
	narrow := map[*gradInput]*tensor.Tensor{}
	some := false
	for in, x := range wide {
		narrow[in] = x
		if x.DType() != tensor.Float64 {
			continue
		}
		some = true
		y, err := tensor.Convert(x, d, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := tensor.ConvertInto(x, y, true); err != nil { // the same numbers
			t.Fatal(err)
		}
		narrow[in] = y
	}
	if !some {
		return false
	}
	in := map[string]tensor.Value{}
	for i, a := range c.in {
		if a != nil && !a.fixed && inputs[fmt.Sprint("x", i)] != nil {
			in[fmt.Sprint("x", i)] = narrow[a]
		}
	}
	got, _, err := c.gradients(narrow, in)
	if errors.Is(err, errAlone) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	want, _, err := c.gradients(wide, inputs)
	if err != nil {
		t.Fatal("in float64:", err)
	}
	for name, w := range want {
		g := got[name]
		if g == nil || g.DType() != in[name].(*tensor.Tensor).DType() || !slices.Equal(g.Shape(), w.Shape()) {
			t.Errorf("the gradient of %s is %v, in float64 %v", name, g, w)
			continue
		}
		top := 0.1
		for i := range w.Len() {
			top = max(top, math.Abs(tensor.Float64At(w, i)))
		}
		for i := range w.Len() {
			if a, b := tensor.Float64At(g, i), tensor.Float64At(w, i); !(math.Abs(a-b) <= bound*top) {
				t.Errorf("gradient of %s%v at element %d: %g, in float64 %g, the greatest being %g", name, w.Shape(), i, a, b, top)
				break
			}
		}
	}
	return true
}

// TestEveryFloatingInputMoves names the inputs that take floating-point numbers in some case and are differentiated in none.
func TestEveryFloatingInputMoves(t *testing.T) {
	moves := map[string]bool{}
	for _, c := range gradCases() {
		vals, _ := c.draw()
		for i, in := range c.in {
			if in == nil || c.graph != nil || !vals[in].DType().IsFloat() {
				continue
			}
			key := fmt.Sprint(c.domain, " ", c.op, " ", i)
			moves[key] = moves[key] || !in.fixed
		}
	}
	// Settings, through which no gradient is meant to go: PyTorch has numbers there, or, for the boxes of regions, gives none.
	settings := map[string]bool{"Resize 1": true, "Resize 2": true, "Upsample 1": true, "CastLike 1": true, "Dropout 1": true, "ai.retune SeededDropout 1": true,
		"RoiAlign 1": true, "MaxRoiPool 1": true, "com.microsoft GroupQueryAttention 12": true, "com.microsoft GroupQueryAttention 13": true}
	for key, ok := range moves {
		if !ok && !settings[strings.TrimSpace(key)] {
			t.Errorf("input %s is differentiated in no case", key)
		}
	}
}
