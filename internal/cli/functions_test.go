package cli

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/retune-go/retune/internal/testkit"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// withBody is every operator that the standard defines by a function as well.
var withBody = []string{
	"AffineGrid", "Attention", "Bernoulli", "BlackmanWindow", "CastLike", "CausalConvWithState", "Celu", "CenterCropPad", "Clip",
	"DynamicQuantizeLinear", "Elu", "FlexAttention", "Gelu", "GreaterOrEqual", "GroupNormalization", "HammingWindow", "HannWindow", "HardSigmoid",
	"HardSwish", "LayerNormalization", "LeakyRelu", "LessOrEqual", "LinearAttention", "LogSoftmax", "MeanVarianceNormalization", "Mish",
	"NegativeLogLikelihoodLoss", "PRelu", "RMSNormalization", "Range", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
	"ReduceSumSquare", "Relu", "RotaryEmbedding", "Selu", "SequenceMap", "Shrink", "Softmax", "SoftmaxCrossEntropyLoss", "Softplus", "Softsign",
	"SwiGLU", "Swish", "ThresholdedRelu",
}

// The suite has, beside the cases of these operators, the same cases with the function's body in the operator's place. Here that body
// becomes a model-local function under the operator's own name, which goes before the operator, and both answer the same.
func TestFunctionBodies(t *testing.T) {
	node := filepath.Join(testkit.Dir(t, "conformance"), "node")
	if _, err := os.Stat(filepath.Join(node, "test_attention_4d")); err != nil {
		t.Skip("skipped: this copy of the suite is from before opset 23")
	}
	expanded, err := filepath.Glob(filepath.Join(node, "*_expanded*"))
	if err != nil {
		t.Fatal(err)
	}
	suffix := regexp.MustCompile(`_expanded.*`)
	seen := map[string]bool{}
	for _, dir := range expanded {
		op, err := compareBody(suffix.ReplaceAllString(dir, ""), dir)
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(dir), err)
		}
		seen[op] = true
	}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, withBody) {
		t.Errorf("the bodies of %v were run, not of %v", got, withBody)
	}
}

// compareBody runs the operator of the case in dir by its kernel and by the body in the other case.
func compareBody(dir, bodyDir string) (op string, err error) {
	m, kernel, err := open(filepath.Join(dir, "model.onnx"), runtime.Threads(1))
	if err != nil {
		return "", err
	}
	defer kernel.Close()
	body, err := onnx.Load(filepath.Join(bodyDir, "model.onnx"))
	if err != nil {
		return "", err
	}
	n := m.Graph.Nodes[0]
	args, err := readInputs(filepath.Join(dir, "test_data_set_0"), m)
	if err != nil {
		return n.Op, err
	}
	if skips[filepath.Base(dir)] != "" { // a draw: it is enough that the body runs
		_, err := runBody(m, body, args)
		return n.Op, err
	}
	want, err := kernel.Run(context.Background(), args)
	if err != nil {
		return n.Op, err
	}
	got, err := runBody(m, body, args)
	if err != nil {
		return n.Op, err
	}
	for name, w := range want {
		if _, _, err := tensor.Compare(got[name], w, 1e-3, 1e-6); err != nil {
			return n.Op, err
		}
	}
	return n.Op, nil
}

// runBody runs m, a graph of one node, with body's graph as the function that the node calls.
func runBody(m, body *onnx.Model, args map[string]tensor.Value) (map[string]tensor.Value, error) {
	n := m.Graph.Nodes[0]
	values := map[string]*onnx.Value{}
	for v := range body.Graph.Values() {
		values[v.Name] = v
	}
	f := &onnx.Function{Name: n.Op, Domain: n.Domain, Opsets: body.Opsets, Body: &onnx.Graph{Name: n.Op, Nodes: body.Graph.Nodes}}
	formal := func(actual *onnx.Value) *onnx.Value {
		if actual != nil && values[actual.Name] != nil {
			return values[actual.Name]
		}
		return &onnx.Value{Name: "unused"}
	}
	for _, v := range n.Inputs {
		f.Body.Inputs = append(f.Body.Inputs, formal(v))
	}
	for _, v := range n.Outputs {
		f.Body.Outputs = append(f.Body.Outputs, formal(v))
	}
	called := *m
	called.Functions = []*onnx.Function{f}
	s, err := runtime.NewSession(&called, runtime.Threads(1))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Run(context.Background(), args)
}
