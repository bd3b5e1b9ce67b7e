package runtime_test

import (
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// An attribute of another type than the operator's is an error, not the default.
func TestMistypedAttributes(t *testing.T) {
	for op, attr := range map[string]*onnx.Attribute{"LeakyRelu": onnx.StringAttr("alpha", "0.3"), "Softmax": onnx.FloatAttr("axis", 1), "Flatten": onnx.IntsAttr("axis", 1),
		"BiasGelu": nil, "QuickGelu": onnx.IntAttr("alpha", 2)} {
		b := onnx.NewBuilder("mistyped", 17)
		x := b.Input("x", tensor.Float32, 2, 3)
		n := onnx.NewNode(op, []*onnx.Value{x}, "y")
		if attr != nil {
			n.Attrs = append(n.Attrs, attr)
		}
		if strings.HasSuffix(op, "Gelu") {
			n.Domain = "com.microsoft"
			b.Import(n.Domain, 1)
		}
		if op == "BiasGelu" {
			n.SetInput(1, b.Init("bias", tensor.New([]float32{1, 2, 3}, 3)))
		}
		b.OutputOf("y", b.Add(n)[0], nil)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		if _, err = runtime.NewSession(m); attr == nil && err != nil || attr != nil && (err == nil || !strings.Contains(err.Error(), "attribute "+attr.Name+" is of another type")) {
			t.Errorf("%s: %v", op, err)
		}
	}
}
