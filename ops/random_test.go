package ops_test

import (
	"math"
	"slices"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// kolmogorov is the greatest distance of a sample's distribution from cdf, times the root of its size.
func kolmogorov(x []float64, cdf func(float64) float64) float64 {
	slices.Sort(x)
	n, worst := float64(len(x)), 0.0
	for i, v := range x {
		p := cdf(v)
		worst = max(worst, p-float64(i)/n, float64(i+1)/n-p)
	}
	return worst * math.Sqrt(n)
}

func TestDrawsAreDistributedAsAsked(t *testing.T) {
	const n = 20000
	seed := ops.FloatAttr("seed", 7)
	like, err := tensor.Zeros(tensor.Float64, n)
	if err != nil {
		t.Fatal(err)
	}
	double := ops.IntAttr("dtype", int64(tensor.Float64))
	normal := func(v float64) float64 { return 0.5 * (1 + math.Erf((v-3)/(2*math.Sqrt2))) }
	uniform := func(v float64) float64 { return (v + 1) / 5 }
	mean, scale, low, high := ops.FloatAttr("mean", 3), ops.FloatAttr("scale", 2), ops.FloatAttr("low", -1), ops.FloatAttr("high", 4)
	for _, c := range []struct {
		nodeCase
		cdf func(float64) float64
	}{
		{nodeCase{"RandomNormal", 22, []*onnx.Attribute{seed, mean, scale, double, ops.IntsAttr("shape", n)}, nil}, normal},
		{nodeCase{"RandomNormalLike", 22, []*onnx.Attribute{seed, mean, scale}, []*tensor.Tensor{like}}, normal},
		{nodeCase{"RandomUniform", 22, []*onnx.Attribute{seed, low, high, double, ops.IntsAttr("shape", n)}, nil}, uniform},
		{nodeCase{"RandomUniformLike", 1, []*onnx.Attribute{seed, low, high}, []*tensor.Tensor{like}}, uniform},
	} {
		y := c.run(t)
		if y.DType() != tensor.Float64 || y.Len() != n {
			t.Fatalf("%s gives %s", c.op, y)
		}
		if again := c.run(t); !slices.Equal(tensor.Float64s(y), tensor.Float64s(again)) {
			t.Errorf("%s: the same seed draws differently", c.op)
		}
		if d := kolmogorov(tensor.Float64s(y), c.cdf); d > 1.95 { // one in a thousand
			t.Errorf("%s: the Kolmogorov–Smirnov statistic is %v", c.op, d)
		}
	}
	for i := range like.Len() {
		tensor.SetFloat64At(like, i, 0.3)
	}
	ones := 0.0
	for _, v := range tensor.Float64s(nodeCase{"Bernoulli", 22, []*onnx.Attribute{seed}, []*tensor.Tensor{like}}.run(t)) {
		ones += v
	}
	if math.Abs(ones/n-0.3) > 0.015 {
		t.Errorf("Bernoulli: %v of the draws are 1, want 0.3", ones/n)
	}
	want := []float64{0.1, 0.6, 0, 0.3}
	scores := tensor.New([]float32{float32(math.Log(0.1)) + 5, float32(math.Log(0.6)) + 5, float32(math.Inf(-1)), float32(math.Log(0.3)) + 5}, 1, 4)
	got := make([]float64, 4)
	for _, v := range tensor.Float64s(nodeCase{"Multinomial", 22, []*onnx.Attribute{seed, ops.IntAttr("sample_size", n)}, []*tensor.Tensor{scores}}.run(t)) {
		got[int(v)] += 1.0 / n
	}
	for i := range want {
		if math.Abs(got[i]-want[i]) > 0.015 {
			t.Errorf("Multinomial draws class %d at %v, want %v", i, got[i], want[i])
		}
	}
}
