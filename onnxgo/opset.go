package onnxgo

import (
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
)

// baseOpset is what a node is read as unless it shows that it is of another.
const baseOpset = 10

// newestOpset bounds the search.
const newestOpset = 28

// forms are what a node has at some opsets only: up to until or from since.
var forms = map[string][]struct {
	attr         string // an attribute it has, or
	inputs       int    // how many inputs it has at least
	until, since int64
}{
	"Add": {{attr: "broadcast", until: 6}, {attr: "axis", until: 6}}, "Sub": {{attr: "broadcast", until: 6}, {attr: "axis", until: 6}},
	"Mul": {{attr: "broadcast", until: 6}, {attr: "axis", until: 6}}, "Div": {{attr: "broadcast", until: 6}, {attr: "axis", until: 6}},
	"Pow": {{attr: "broadcast", until: 6}, {attr: "axis", until: 6}}, "And": {{attr: "broadcast", until: 6}}, "Or": {{attr: "broadcast", until: 6}},
	"Xor": {{attr: "broadcast", until: 6}}, "Equal": {{attr: "broadcast", until: 6}}, "Greater": {{attr: "broadcast", until: 6}},
	"Less": {{attr: "broadcast", until: 6}}, "PRelu": {{attr: "consumed_inputs", until: 5}}, "Gemm": {{attr: "broadcast", until: 6}},
	"BatchNormalization": {{attr: "is_test", until: 6}, {attr: "spatial", until: 8}, {attr: "training_mode", since: 14}},
	"Reshape":            {{attr: "shape", until: 4}, {attr: "allowzero", since: 14}},
	"Slice":              {{attr: "starts", until: 9}},
	"TopK":               {{attr: "k", until: 9}, {attr: "sorted", since: 11}, {attr: "largest", since: 11}},
	"Upsample":           {{attr: "scales", until: 8}, {attr: "height_scale", until: 6}},
	"Resize":             {{inputs: 3, since: 11}, {attr: "coordinate_transformation_mode", since: 11}, {attr: "axes", since: 18}},
	"Pad":                {{attr: "paddings", until: 1}, {inputs: 2, since: 11}},
	"Clip":               {{inputs: 2, since: 11}},
	"Dropout":            {{inputs: 2, since: 12}, {attr: "seed", since: 12}},
	"Split":              {{inputs: 2, since: 13}, {attr: "num_outputs", since: 18}},
	"Squeeze":            {{inputs: 2, since: 13}}, "Unsqueeze": {{inputs: 2, since: 13}}, "ReduceSum": {{inputs: 2, since: 13}},
	"ReduceMax": {{inputs: 2, since: 18}}, "ReduceMin": {{inputs: 2, since: 18}}, "ReduceMean": {{inputs: 2, since: 18}},
	"ReduceProd": {{inputs: 2, since: 18}}, "ReduceL1": {{inputs: 2, since: 18}}, "ReduceL2": {{inputs: 2, since: 18}},
	"ReduceLogSum": {{inputs: 2, since: 18}}, "ReduceLogSumExp": {{inputs: 2, since: 18}}, "ReduceSumSquare": {{inputs: 2, since: 18}},
	"ArgMax": {{attr: "select_last_index", since: 12}}, "ArgMin": {{attr: "select_last_index", since: 12}},
	"GatherND": {{attr: "batch_dims", since: 12}}, "ScatterElements": {{attr: "reduction", since: 16}}, "ScatterND": {{attr: "reduction", since: 16}},
	"MaxPool": {{attr: "storage_order", since: 8}}, "DepthToSpace": {{attr: "mode", since: 11}},
	"QuantizeLinear": {{attr: "axis", since: 13}}, "DequantizeLinear": {{attr: "axis", since: 13}},
}

// settle gives n the opset, and the domain, at which it is meant as far as it shows; it reports whether there is one.
func settle(n *onnx.Node) bool {
	low, high := int64(1), int64(newestOpset)
	for _, f := range forms[n.Op] {
		if f.attr != "" && n.Attr(f.attr) == nil || f.attr == "" && len(n.Inputs) < f.inputs {
			continue
		}
		if f.until > 0 {
			high = min(high, f.until)
		}
		low = max(low, f.since)
	}
	for _, domain := range []string{"", "ai.onnx.ml", "com.microsoft"} {
		n.Domain = domain
		// The nearest opset to the base at which the node is well formed.
		for d := range int64(newestOpset) {
			for _, v := range []int64{baseOpset + d, baseOpset - d} {
				if v < low || v > high {
					continue
				}
				n.Opset = v
				if _, err := ops.Resolve(n, int(v)); err == nil {
					return true
				}
			}
		}
	}
	n.Domain = ""
	return false
}
