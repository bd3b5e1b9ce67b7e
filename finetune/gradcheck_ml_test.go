package finetune

import (
	"math"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

func init() { gradFamilies = append(gradFamilies, mlCases) }

// mlCases are operators of ai.onnx.ml. Their outputs are float32 whatever comes in, so the steps are
// large.
func mlCases(add addCase) {
	type attrs = []*onnx.Attribute
	ml := func(op, name string, as attrs, in ...*gradInput) {
		c := add(op, 1, name, as, in...)
		c.domain, c.step, c.tol = "ai.onnx.ml", 0.05, 1e-4
	}
	ml("LinearRegressor", "one target", attrs{floatsAttr("coefficients", 0.5, -1, 2)}, signed(4, 3))
	ml("LinearRegressor", "two targets, one row", attrs{floatsAttr("coefficients", 0.5, -1, 2, 0.25), floatsAttr("intercepts", 1, 2), ops.IntAttr("targets", 2)}, signed(2))
	ml("Scaler", "one number", attrs{floatsAttr("offset", 1), floatsAttr("scale", 0.5)}, signed(2, 3))
	ml("Scaler", "by feature", attrs{floatsAttr("offset", 1, 2, 3), floatsAttr("scale", 0.5, -1, 2)}, signed(2, 3))
	ml("Scaler", "no scale", attrs{floatsAttr("offset", 1)}, signed(3))
	for _, norm := range []string{"MAX", "L1", "L2"} {
		for name, in := range map[string]*gradInput{"rows": signed(3, 4), "one row": signed(5)} {
			c := add("Normalizer", 1, norm+" of "+name, attrs{ops.StringAttr("norm", norm)}, in)
			c.domain, c.step, c.tol = "ai.onnx.ml", 1e-3, 2e-3
		}
	}
	ml("Imputer", "nothing replaced", attrs{floatsAttr("imputed_value_floats", 7), ops.FloatAttr("replaced_value_float", 9)}, signed(2, 3))
	ml("Imputer", "of NaN", attrs{floatsAttr("imputed_value_floats", 7, 8), ops.FloatAttr("replaced_value_float", float32(math.NaN()))},
		moving(tensor.New([]float64{2, math.NaN(), 0, 2, math.NaN(), 2}, 3, 2)))
	ml("FeatureVectorizer", "of two", attrs{ops.IntsAttr("inputdimensions", 3, 2)}, signed(2, 3), signed(2, 2))
	ml("FeatureVectorizer", "of rows of matrices", nil, signed(2, 3, 2), signed(2, 2))
	ml("FeatureVectorizer", "of one row", nil, signed(3), signed(1, 2))
	ml("ArrayFeatureExtractor", "repeated columns", nil, signed(2, 3, 4), fixed(tensor.New([]int64{3, 0, 3}, 1, 3)))
	ml("ArrayFeatureExtractor", "one row", nil, signed(4), fixed(tensor.New([]int64{3, 0, 3})))
}
