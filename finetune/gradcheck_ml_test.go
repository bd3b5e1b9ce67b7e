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
	curved := func(op, name string, as attrs, outs int, in *gradInput) {
		c := add(op, 1, name, as, in)
		c.domain, c.outs, c.step, c.tol = "ai.onnx.ml", outs, 1e-2, 3e-3
	}
	weights := floatsAttr("coefficients", 0.2, -0.3, 0.1, 0.25, 0.15, -0.1)
	for _, post := range []string{"NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"} {
		after := ops.StringAttr("post_transform", post)
		x, bias := func() *gradInput { return uniform(-0.5, 0.5, 4, 3) }, floatsAttr("intercepts", 0.6, 0.7)
		curved("LinearRegressor", post, attrs{weights, bias, ops.IntAttr("targets", 2), after}, 1, x())
		curved("LinearClassifier", post, attrs{weights, bias, ops.IntsAttr("classlabels_ints", 4, 5), after}, 2, x())
		curved("SVMClassifier", "rows, "+post, attrs{weights, floatsAttr("rho", 0.6), ops.IntsAttr("classlabels_ints", 4, 5), after}, 2, x())
		if post != "PROBIT" {
			curved("LinearClassifier", "two classes, one row, "+post, attrs{floatsAttr("coefficients", 0.5, -1, 0.2), floatsAttr("intercepts", 0.1), ops.IntsAttr("classlabels_ints", 4, 5), after}, 2, x())
		}
		for _, function := range []string{"LINEAR", "POLY", "RBF", "SIGMOID"} {
			as := attrs{ops.StringAttr("kernel_type", function), floatsAttr("kernel_params", 0.7, 0.2, 3), floatsAttr("support_vectors", 0.5, -0.2, 0.1, 0.3, 0.4, -0.6, -0.3, 0.2, 0.2), after}
			name := function + ", " + post
			curved("SVMRegressor", name, append(as[:4:4], ops.IntAttr("n_supports", 3), floatsAttr("coefficients", 0.2, -0.1, 0.15), floatsAttr("rho", 0.4)), 1, x())
			if post != "PROBIT" {
				curved("SVMClassifier", name+", two classes", append(as[:4:4], ops.IntsAttr("vectors_per_class", 2, 1), ops.IntsAttr("classlabels_ints", 4, 5),
					floatsAttr("coefficients", 0.5, 0.7, -1.1), floatsAttr("rho", 0.3)), 2, x())
			}
			curved("SVMClassifier", name+", three classes", append(as[:4:4], ops.IntsAttr("vectors_per_class", 1, 1, 1), ops.IntsAttr("classlabels_ints", 4, 5, 6),
				floatsAttr("coefficients", 0.2, -0.1, 0.15, 0.1, 0.05, -0.1), floatsAttr("rho", 0.4, 0.5, 0.6)), 2, x())
		}
	}
	ml("SVMRegressor", "coefficients of features", attrs{floatsAttr("coefficients", 0.5, -1, 2), floatsAttr("rho", 0.4)}, signed(4, 3))
	flat := add("SVMRegressor", 1, "one class", attrs{floatsAttr("coefficients", 0.5, -1, 2), floatsAttr("rho", 0.4), ops.IntAttr("one_class", 1)}, signed(4, 3))
	flat.domain = "ai.onnx.ml"
	prob := add("SVMClassifier", 1, "calibrated", attrs{floatsAttr("support_vectors", 0.5, -0.2, 0.1, 0.3), ops.IntsAttr("vectors_per_class", 1, 1), ops.IntsAttr("classlabels_ints", 4, 5),
		floatsAttr("coefficients", 0.5, 0.7), floatsAttr("rho", 0.3), floatsAttr("prob_a", 0.5), floatsAttr("prob_b", 0.1)}, signed(2, 2))
	prob.domain, prob.outs, prob.refused = "ai.onnx.ml", 2, "calibrated"
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
	ml("FeatureVectorizer", "some left out and some missing", attrs{ops.IntsAttr("inputdimensions", 2, 5, 0, 1)}, signed(2, 3), signed(2, 2, 2), signed(2, 2), signed(2, 1))
	ml("FeatureVectorizer", "of one row", nil, signed(3), signed(1, 2))
	ml("ArrayFeatureExtractor", "repeated columns", nil, signed(2, 3, 4), fixed(tensor.New([]int64{3, 0, 3}, 1, 3)))
	ml("ArrayFeatureExtractor", "one row", nil, signed(4), fixed(tensor.New([]int64{3, 0, 3})))
}
