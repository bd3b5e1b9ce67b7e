package finetune

import (
	"fmt"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

func init() { gradFamilies = append(gradFamilies, lossCases, einsumCases) }

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
