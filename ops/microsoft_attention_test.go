package ops_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// contrib runs one node of com.microsoft, of whose inputs nil ones are left out.
func contrib(t *testing.T, op string, outs int, attrs []*onnx.Attribute, in ...*tensor.Tensor) []*tensor.Tensor {
	t.Helper()
	m, args := contribModel(t, op, outs, attrs, in)
	got := runModel(t, m, args)
	y := make([]*tensor.Tensor, outs)
	for i := range y {
		y[i] = got[fmt.Sprint("y", i)].(*tensor.Tensor)
	}
	return y
}

func contribModel(t *testing.T, op string, outs int, attrs []*onnx.Attribute, in []*tensor.Tensor) (*onnx.Model, []*tensor.Tensor) {
	t.Helper()
	b := onnx.NewBuilder(op, 21)
	b.Import("com.microsoft", 1)
	var values []*onnx.Value
	var args []*tensor.Tensor
	for _, x := range in {
		if x == nil {
			values = append(values, nil)
			continue
		}
		dims := []any{}
		for _, d := range x.Shape() {
			dims = append(dims, d)
		}
		values = append(values, b.Input(fmt.Sprint("x", len(args)), x.DType(), dims...))
		args = append(args, x)
	}
	n := onnx.NewNode(op, values)
	n.Domain, n.Attrs = "com.microsoft", attrs
	for i := range outs {
		n.AddOutput(&onnx.Value{Name: fmt.Sprint("y", i)})
	}
	for _, v := range b.Add(n) {
		b.OutputOf(v.Name, v, nil)
	}
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m, args
}

func normal(r *rand.Rand, shape ...int) *tensor.Tensor {
	x, _ := tensor.Zeros(tensor.Float32, shape...)
	for i := range tensor.Data[float32](x) {
		tensor.Data[float32](x)[i] = float32(r.NormFloat64())
	}
	return x
}

// elements are x's elements at those places of a shape.
func elements(x *tensor.Tensor, shape []int, at func(i []int) int) *tensor.Tensor {
	y, _ := tensor.Zeros(x.DType(), shape...)
	i := make([]int, len(shape))
	for k := range y.Len() {
		for rest, a := k, len(shape)-1; a >= 0; a-- {
			i[a], rest = rest%shape[a], rest/shape[a]
		}
		tensor.SetFloat64At(y, k, tensor.Float64At(x, at(i)))
	}
	return y
}

func alike(t *testing.T, what string, got, want []*tensor.Tensor) {
	t.Helper()
	for i := range want {
		if _, _, err := tensor.Compare(got[i], want[i], 1e-5, 1e-5); err != nil {
			t.Errorf("%s: output %d: %v", what, i, err)
		}
	}
}

// What ONNX Runtime's CPU provider refuses is held against the same thing said otherwise.
func TestAttentionInOtherWords(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const b, s, n, h = 2, 3, 2, 4
	two := []*onnx.Attribute{onnx.IntAttr("num_heads", n)}

	// Packed: as an axis before the last, or side by side.
	packed, bias := normal(r, b, s, n, 3, h), normal(r, 3*n*h)
	part := func(k int) *tensor.Tensor {
		return elements(packed, []int{b, s, n * h}, func(i []int) int { return (((i[0]*s+i[1])*n+i[2]/h)*3+k)*h + i[2]%h })
	}
	q, k, v := part(0), part(1), part(2)
	want := contrib(t, "MultiHeadAttention", 3, two, q, k, v, bias)
	alike(t, "packed", contrib(t, "MultiHeadAttention", 3, two, packed, nil, nil, bias), want)
	columns := elements(packed, []int{b, s, 3 * n * h}, func(i []int) int {
		return (((i[0]*s+i[1])*n+i[2]%(n*h)/h)*3+i[2]/(n*h))*h + i[2]%h
	})
	alike(t, "packed in columns", contrib(t, "MultiHeadAttention", 3, two, columns, nil, nil, bias), want)
	keys := elements(packed, []int{b, s, n, 2, h}, func(i []int) int { return (((i[0]*s+i[1])*n+i[2])*3+i[3]+1)*h + i[4] })
	alike(t, "packed keys", contrib(t, "MultiHeadAttention", 3, two, q, keys), contrib(t, "MultiHeadAttention", 3, two, q, k, v))

	// A buffer of seven tokens, of which two are past.
	x, w := normal(r, b, s, 5), normal(r, 5, 3*n*h)
	buffer := normal(r, 2, b, n, 7, h)
	past := elements(buffer, []int{2, b, n, 2, h}, func(i []int) int { return (((i[0]*b+i[1])*n+i[2])*7+i[3])*h + i[4] })
	causal := append(two, onnx.IntAttr("unidirectional", 1))
	share := append(causal, onnx.IntAttr("past_present_share_buffer", 1))
	want = contrib(t, "Attention", 2, causal, x, w, bias, nil, past)
	got := contrib(t, "Attention", 2, share, x, w, bias, nil, buffer, nil, tensor.New([]int32{2}, 1))
	alike(t, "a buffer", got[:1], want[:1])
	for i := range got[1].Len() {
		of, token, rest := i/(7*h), i/h%7, i%h
		at, from := i, buffer
		if token < 5 {
			at, from = (of*5+token)*h+rest, want[1]
		}
		if a, b := tensor.Float64At(got[1], i), tensor.Float64At(from, at); math.Abs(a-b) > 1e-5 {
			t.Fatalf("the buffer's token %d is %v, want %v", token, a, b)
		}
	}

	// A mask of all tokens that there may be, from which the rows of those that are new are taken.
	square, _ := tensor.Zeros(tensor.Int32, b, 1, 9, 9)
	for i := range square.Len() {
		tensor.Data[int32](square)[i] = int32(r.IntN(4)+2) / 3
		if i%9 == 0 {
			tensor.Data[int32](square)[i] = 1
		}
	}
	rows := elements(square, []int{b, s, 5}, func(i []int) int { return i[0]*81 + (2+i[1])*9 + i[2] })
	alike(t, "a mask of all", contrib(t, "Attention", 2, two, x, w, bias, square, past), contrib(t, "Attention", 2, two, x, w, bias, rows, past))

	// Rotation by angles of position·10000^(-2i/size), as RotaryEmbedding does it by tables; one step at a time as in one go.
	rotary := append(causal, onnx.IntAttr("do_rotary", 1))
	whole := contrib(t, "Attention", 2, rotary, x, w, bias)
	cos, sin := normal(r, s, h/2), normal(r, s, h/2)
	for i := range cos.Len() {
		angle := float64(i/(h/2)) * math.Pow(10000, -2*float64(i%(h/2))/h)
		tensor.SetFloat64At(cos, i, math.Cos(angle))
		tensor.SetFloat64At(sin, i, math.Sin(angle))
	}
	zero, _ := tensor.Zeros(tensor.Float32, 2, b, n, 0, h)
	qkv := [3]*tensor.Tensor{normal(r, b, s, n*h), normal(r, b, s, n*h), normal(r, b, s, n*h)} // to be x·w + bias
	for k, y := range qkv {
		for i := range y.Len() {
			row, c := i/(n*h), k*n*h+i%(n*h)
			sum := tensor.Float64At(bias, c)
			for d := range 5 {
				sum += tensor.Float64At(x, row*5+d) * tensor.Float64At(w, d*3*n*h+c)
			}
			tensor.SetFloat64At(y, i, sum)
		}
	}
	turn := func(x *tensor.Tensor) *tensor.Tensor {
		return contrib(t, "RotaryEmbedding", 1, two, x, tensor.New([]int64{0}, 1), cos, sin)[0]
	}
	alike(t, "rotary", whole[:1], contrib(t, "MultiHeadAttention", 1, causal, turn(qkv[0]), turn(qkv[1]), qkv[2]))
	state := zero
	for step := range s {
		one := elements(x, []int{b, 1, 5}, func(i []int) int { return (i[0]*s+step)*5 + i[2] })
		y := contrib(t, "Attention", 2, rotary, one, w, bias, nil, state)
		state = y[1]
		alike(t, "rotary by steps", y[:1], []*tensor.Tensor{elements(whole[0], []int{b, 1, n * h}, func(i []int) int { return (i[0]*s+step)*n*h + i[2] })})
	}
	alike(t, "rotary keys", []*tensor.Tensor{state}, whole[1:])

	// Norms of queries and keys in GroupQueryAttention.
	group := append(two, onnx.IntAttr("kv_num_heads", 1), onnx.FloatAttr("qk_norm_epsilon", 1e-3))
	wide := elements(q, []int{b, s, n * 8}, func(i []int) int { return (i[0]*s+i[1])*n*h + i[2]%(n*h) })
	thin := normal(r, b, s, 8)
	lens, total := tensor.New([]int32{s - 1, s - 1}, b), tensor.New([]int32{s}, 1)
	wq, wk := normal(r, 8), normal(r, 8)
	normed := func(x, w *tensor.Tensor) *tensor.Tensor {
		y := x.Clone()
		for i := 0; i < x.Len(); i += 8 {
			sum := 0.0
			for k := range 8 {
				sum += tensor.Float64At(x, i+k) * tensor.Float64At(x, i+k)
			}
			for k := range 8 {
				tensor.SetFloat64At(y, i+k, tensor.Float64At(x, i+k)/math.Sqrt(sum/8+1e-3)*tensor.Float64At(w, k))
			}
		}
		return y
	}
	alike(t, "norms", contrib(t, "GroupQueryAttention", 3, group, wide, thin, thin, nil, nil, lens, total, nil, nil, nil, nil, nil, nil, nil, wq, wk),
		contrib(t, "GroupQueryAttention", 3, group, normed(wide, wq), normed(thin, wk), thin, nil, nil, lens, total))
}

// What does not go together is an error that says so, and no answer.
func TestFormsThatAreErrors(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	two := []*onnx.Attribute{onnx.IntAttr("num_heads", 2)}
	for want, c := range map[string]struct {
		op    string
		attrs []*onnx.Attribute
		in    []*tensor.Tensor
	}{
		"past_present_share_buffer needs past_sequence_length": {"Attention", append(two, onnx.IntAttr("past_present_share_buffer", 1)),
			[]*tensor.Tensor{normal(r, 1, 2, 4), normal(r, 4, 12), nil, nil, normal(r, 2, 1, 2, 3, 2)}},
		"several beams need cache_indirection": {"DecoderMaskedMultiHeadAttention", append(two, onnx.IntAttr("past_present_share_buffer", 1)),
			[]*tensor.Tensor{normal(r, 2, 1, 4), normal(r, 2, 1, 4), normal(r, 2, 1, 4), nil, nil, normal(r, 2, 2, 3, 2), normal(r, 2, 2, 3, 2), tensor.New([]int32{1}, 1), tensor.New([]int32{2}, 1)}},
		"ranks that do not go together":            {"MultiHeadAttention", two, []*tensor.Tensor{normal(r, 1, 2, 4), normal(r, 1, 2, 2, 2, 2), normal(r, 1, 2, 4)}},
		"have not the same widths":                 {"MultiHeadAttention", two, []*tensor.Tensor{normal(r, 1, 2, 10)}},
		"rotary_embedding_dim needs num_heads":     {"RotaryEmbedding", []*onnx.Attribute{onnx.IntAttr("rotary_embedding_dim", 2)}, []*tensor.Tensor{normal(r, 1, 2, 8), tensor.New([]int64{0}, 1), normal(r, 3, 1), normal(r, 3, 1)}},
		"sliding_window_cache is not supported":    {"GroupQueryAttention", append(two, onnx.IntAttr("kv_num_heads", 2), onnx.IntAttr("sliding_window_cache", 1)), []*tensor.Tensor{normal(r, 1, 2, 16), normal(r, 1, 2, 16), normal(r, 1, 2, 16), nil, nil, tensor.New([]int32{1}, 1), tensor.New([]int32{2}, 1)}},
		"k_quant_type \"NONE\" is neither":         {"GroupQueryAttention", append(two, onnx.IntAttr("kv_num_heads", 2)), []*tensor.Tensor{normal(r, 1, 1, 16), normal(r, 1, 1, 16), normal(r, 1, 1, 16), tensor.New(make([]int8, 16), 1, 2, 1, 8), tensor.New(make([]int8, 16), 1, 2, 1, 8), tensor.New([]int32{1}, 1), tensor.New([]int32{2}, 1), nil, nil, nil, nil, nil, tensor.New([]float32{1}, 1), tensor.New([]float32{1}, 1)}},
		"without a past there is no telling the c": {"GroupQueryAttention", append(two, onnx.IntAttr("kv_num_heads", 2)), []*tensor.Tensor{normal(r, 1, 1, 16), normal(r, 1, 1, 16), normal(r, 1, 1, 16), nil, nil, tensor.New([]int32{0}, 1), tensor.New([]int32{1}, 1), nil, nil, nil, nil, nil, tensor.New([]float32{1}, 1), tensor.New([]float32{1}, 1)}},
	} {
		m, _ := contribModel(t, c.op, 1, c.attrs, c.in)
		if _, err := runtime.NewSession(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want an error with %q, got %v", c.op, want, err)
		}
	}

	x := normal(r, 2, 3)
	for want, c := range map[string]nodeCase{
		"axes are an attribute at opset 13":        {"ReduceMax", 13, nil, []*tensor.Tensor{x, tensor.New([]int64{1}, 1)}},
		"axes are an input at opset 18":            {"ReduceMean", 18, []*onnx.Attribute{onnx.IntsAttr("axes", 1)}, []*tensor.Tensor{x}},
		"value of 5 columns does not divide among": {"LinearAttention", 27, []*onnx.Attribute{onnx.IntAttr("q_num_heads", 2), onnx.IntAttr("kv_num_heads", 2), onnx.StringAttr("update_rule", "linear")}, []*tensor.Tensor{normal(r, 1, 2, 4), normal(r, 1, 2, 4), normal(r, 1, 2, 5)}},
	} {
		m, _, _ := c.model()
		m.Graph.Outputs = m.Graph.Nodes[0].Outputs
		if _, err := runtime.NewSession(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want an error with %q, got %v", c.op, want, err)
		}
	}
}
