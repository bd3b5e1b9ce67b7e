package difftest

import (
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

func init() {
	// activation gives the node one and says how many rows of the first product make one of the second's columns.
	activation := func(g *gen) int {
		a := one(g, "relu", "gelu", "silu", "identity", "swiglu")
		g.str("activation_type", a)
		if a != "swiglu" {
			return 1
		}
		g.int("swiglu_fusion", 1)
		g.maybeFloat("activation_alpha", 0.5, 2)
		g.maybeFloat("activation_beta", -1, 1)
		if g.chance(2) {
			g.float("swiglu_limit", 0.5+g.Float32())
		}
		return 2
	}
	generators["com.microsoft.MoE"] = func(g *gen) {
		g.plain, g.declared, g.dtype = true, true, tensor.Float32
		experts, hidden, inter := g.in(1, 6), g.in(1, 6), g.in(1, 6)
		x := []int{g.in(1, 7), hidden}
		tokens := x[0]
		if g.chance(2) {
			x = []int{g.in(1, 3), g.in(1, 4), hidden}
			tokens = x[0] * x[1]
		}
		g.int("k", g.in(1, experts))
		g.maybe("normalize_routing_weights", 0, 1)
		rows := inter * activation(g)
		inputs := []*onnx.Value{g.rand(x...), g.rand(tokens, experts), g.rand(experts, rows, hidden), nil, g.rand(experts, hidden, inter), nil}
		if g.chance(2) {
			inputs[3] = g.rand(experts, rows)
		}
		if g.chance(2) {
			inputs[5] = g.rand(experts, hidden)
		}
		g.node(1, inputs...)
	}
	generators["com.microsoft.QMoE"] = func(g *gen) {
		g.plain, g.declared, g.dtype = true, true, one(g, tensor.Float32, tensor.Float32, tensor.Float16)
		bits := one(g, 2, 4, 8)
		experts, hidden, inter, block := g.in(1, 4), 32*g.in(1, 3), 32*g.in(1, 3), 0
		if bits == 4 && g.chance(2) {
			block = one(g, 16, 32)
			hidden, inter = 64*g.in(1, 2), 64*g.in(1, 2)
			g.int("block_size", block)
		}
		g.int("expert_weight_bits", bits)
		tokens := g.in(1, 5)
		g.int("k", g.in(1, experts))
		g.int("normalize_routing_weights", 1)
		rows := inter * activation(g)
		bytes := func(shape ...int) *onnx.Value {
			t, _ := tensor.Zeros(tensor.Uint8, shape...)
			for i := range t.Bytes() {
				t.Bytes()[i] = byte(g.IntN(256))
			}
			return g.b.Const(t)
		}
		scales := func(rows, columns int) *onnx.Value {
			shape := []int{experts, rows}
			if block > 0 {
				shape = append(shape, columns/block)
			}
			t := g.tensor(g.dtype, shape...)
			for i := range t.Len() {
				tensor.SetFloat64At(t, i, 0.001+0.01*g.Float64())
			}
			return g.b.Const(t)
		}
		zeros := func(rows, columns int) *onnx.Value {
			if block > 0 {
				return bytes(experts, rows, (columns/block*bits+7)/8)
			}
			return bytes(experts, rows*bits/8)
		}
		inputs := []*onnx.Value{g.rand(tokens, hidden), g.rand(tokens, experts), bytes(experts, rows, hidden*bits/8), scales(rows, hidden), nil,
			bytes(experts, hidden, inter*bits/8), scales(hidden, inter), nil, nil, nil, nil, nil, nil, nil, nil}
		if g.chance(2) {
			inputs[4], inputs[7] = g.rand(experts, rows), g.rand(experts, hidden)
		}
		if g.chance(2) {
			inputs[11], inputs[12] = zeros(rows, hidden), zeros(hidden, inter)
		}
		if g.chance(3) {
			inputs[14] = g.rand(tokens, experts)
		}
		g.node(1, inputs...)
	}
}
