package finetune

import (
	"fmt"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

func init() { gradFamilies = append(gradFamilies, lossCases, einsumCases, cumulativeCases) }

func lossCases(add addCase) {
	type attrs = []*onnx.Attribute
	s, i := ops.StringAttr, ops.IntAttr
	weights := fixed(tensor.New(ramp(4, 0.5), 4))
	for _, how := range []string{"mean", "sum", "none"} {
		for _, c := range []struct {
			name    string
			scores  []int
			targets *gradInput
		}{
			{"rows", []int{3, 4}, ints(1, 0, 3)},
			{"planes", []int{2, 4, 3}, intsOf([]int{2, 3}, 1, 0, 3, 2, 2, 1)},
			{"as many classes as places", []int{2, 4, 4}, intsOf([]int{2, 4}, 1, 0, 3, 2, 2, 1, 0, 3)},
		} {
			for _, op := range []string{"NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"} {
				as := attrs{s("reduction", how)}
				add(op, 13, c.name+" "+how, as, signed(c.scores...), c.targets)
				add(op, 13, c.name+" weighted "+how, append(as, i("ignore_index", 3)), signed(c.scores...), c.targets, weights)
			}
			for _, op := range []string{"NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"} {
				add(op, 13, c.name+" weights that move "+how, attrs{s("reduction", how), i("ignore_index", 0)}, signed(c.scores...), c.targets, uniform(0.5, 2, c.scores[1]))
			}
			add("SoftmaxCrossEntropyLoss", 13, c.name+" log_prob "+how, attrs{s("reduction", how), i("ignore_index", 0)}, signed(c.scores...), c.targets).outs = 2
		}
	}
}

func einsumCases(add addCase) {
	for _, c := range []struct {
		equation string
		shapes   [][]int
	}{
		{"ij,jk->ik", [][]int{{2, 3}, {3, 4}}},
		{"ij,jk", [][]int{{2, 3}, {3, 1}}},
		{"ij->ji", [][]int{{2, 3}}},
		{"ii->i", [][]int{{3, 3}}},
		{"ii", [][]int{{3, 3}}},
		{"iij,j->ij", [][]int{{2, 2, 3}, {3}}},
		{"ij->", [][]int{{2, 3}}},
		{"ij,k->k", [][]int{{2, 3}, {4}}},
		{"ij,ij->ij", [][]int{{2, 1}, {1, 3}}},
		{"ij,ij->i", [][]int{{2, 1}, {2, 3}}},
		{"...ij,...jk->...ik", [][]int{{2, 1, 2, 3}, {4, 3, 2}}},
		{"bqhd,bkhd->bhqk", [][]int{{2, 2, 3, 2}, {2, 3, 3, 2}}},
		{"ij,jk,kl->il", [][]int{{2, 3}, {3, 4}, {4, 2}}},
		{"i,i,i->i", [][]int{{3}, {1}, {3}}},
		{",->", [][]int{{}, {}}},
		{"...i->i", [][]int{{2, 3, 2}}},
	} {
		var in []*gradInput
		for _, shape := range c.shapes {
			in = append(in, signed(shape...))
		}
		add("Einsum", 12, fmt.Sprint(c.equation, c.shapes), []*onnx.Attribute{ops.StringAttr("equation", c.equation)}, in...)
	}
}

func cumulativeCases(add addCase) {
	type attrs = []*onnx.Attribute
	i, f := ops.IntAttr, ops.FloatAttr
	zeros := func() *gradInput {
		return moving(tensor.New([]float64{1.5, 0, -2, 0.7, 0, 0, 3, 1, -1.2, 0.4, 2, 0}, 3, 4))
	}
	for _, ex := range []int64{0, 1} {
		for _, rev := range []int64{0, 1} {
			as := attrs{i("exclusive", ex), i("reverse", rev)}
			add("CumProd", 26, fmt.Sprint("rows ", ex, rev), as, signed(3, 4), oneInt(-1))
			add("CumProd", 26, fmt.Sprint("middle ", ex, rev), as, signed(2, 3, 2), oneInt(1))
			add("CumProd", 26, fmt.Sprint("zeros ", ex, rev), as, zeros(), oneInt(0))
		}
	}
	add("Inverse", 1, "batch", nil, signed(2, 3, 3)).domain = "com.microsoft"
	add("Det", 22, "one", nil, signed(3, 3))
	add("Det", 22, "batch", nil, signed(2, 1, 4, 4))
	add("Det", 22, "size 1", nil, signed(2, 1, 1))
	add("Det", 22, "singular", nil, moving(tensor.New([]float64{1, 2, 2, 4}, 2, 2)))
	add("Shrink", 9, "default", nil, signed(3, 5))
	add("Shrink", 9, "attributes", attrs{f("lambd", 0.7), f("bias", 0.4)}, signed(3, 5))
}
