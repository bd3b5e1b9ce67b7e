package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// mlDomain is the domain of the classical machine-learning operators. Their definitions leave much open, above all
// for two classes; there this package follows ONNX Runtime where its answer can be meant, and says so.
const mlDomain = "ai.onnx.ml"

// mlNumeric is the element types that these operators read.
var mlNumeric = Of(tensor.Float32, tensor.Float64, tensor.Int32, tensor.Int64)

// attrs reads a node's attributes; err is its first complaint.
type attrs struct {
	n   *Node
	err error
}

func (a *attrs) fail(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf(format, args...)
	}
}

// get is the attribute name, nil if there is none. One of another type than want is a complaint.
func (a *attrs) get(name string, want onnx.AttrType) *onnx.Attribute {
	at := a.n.Attr(name)
	if at == nil {
		return nil
	}
	if at.Type != want {
		a.fail("attribute %s is of type %s, not %s", name, at.Type, want)
		return nil
	}
	return at
}

func (a *attrs) floats(name string) []float32 {
	if at := a.get(name, onnx.AttrFloats); at != nil {
		return at.Floats
	}
	return nil
}

func (a *attrs) ints(name string) []int64 {
	if at := a.get(name, onnx.AttrInts); at != nil {
		return at.Ints
	}
	return nil
}

func (a *attrs) strings(name string) []string {
	at := a.get(name, onnx.AttrStrings)
	if at == nil {
		return nil
	}
	out := make([]string, len(at.Strings))
	for i, s := range at.Strings {
		out[i] = string(s)
	}
	return out
}

func (a *attrs) float(name string, def float32) float32 {
	if at := a.get(name, onnx.AttrFloat); at != nil {
		return at.F
	}
	return def
}

func (a *attrs) int(name string, def int64) int64 {
	if at := a.get(name, onnx.AttrInt); at != nil {
		return at.I
	}
	return def
}

func (a *attrs) str(name, def string) string {
	if at := a.get(name, onnx.AttrString); at != nil {
		return string(at.S)
	}
	return def
}

// choice is the place of a string attribute among those allowed, of which the first is the default.
func (a *attrs) choice(name string, allowed ...string) int {
	s := a.str(name, allowed[0])
	i := slices.Index(allowed, s)
	if i < 0 {
		a.fail("attribute %s %q is none of %q", name, s, allowed)
	}
	return i
}

func (a *attrs) tensor(name string) *tensor.Tensor {
	if at := a.get(name, onnx.AttrTensor); at != nil {
		if at.T != nil {
			return at.T
		}
		a.fail("attribute %s holds no tensor", name)
	}
	return nil
}

// labels is the classes of a classifier: strings or integers, of which exactly one must be there.
func (a *attrs) labels(stringsName, intsName string) labels {
	l := labels{strings: a.strings(stringsName), ints: a.ints(intsName)}
	if (len(l.strings) == 0) == (len(l.ints) == 0) {
		a.fail("exactly one of the attributes %s and %s must be given", stringsName, intsName)
	}
	return l
}

// labels is the names of classes.
type labels struct {
	strings []string
	ints    []int64
}

func (l labels) len() int { return max(len(l.strings), len(l.ints)) }

func (l labels) dtype() tensor.DType {
	if l.strings != nil {
		return tensor.String
	}
	return tensor.Int64
}

// write allocates output 0 and puts the name of classes[i] at i.
func (l labels) write(c *Ctx, classes []int32) error {
	if !c.Wants(0) {
		return nil
	}
	y, err := c.Alloc(0, l.dtype(), len(classes))
	if err != nil {
		return err
	}
	if l.strings != nil {
		out := tensor.Data[string](y)
		for i, k := range classes {
			out[i] = l.strings[k]
		}
		return nil
	}
	out := tensor.Data[int64](y)
	for i, k := range classes {
		out[i] = l.ints[k]
	}
	return nil
}

// mlRows is the sizes of X as [N,C]; one row alone may come as [C].
func mlRows(x *tensor.Tensor) (rows, features int, err error) {
	switch s := x.Shape(); len(s) {
	case 1:
		return 1, s[0], nil
	case 2:
		return s[0], s[1], nil
	}
	return 0, 0, fmt.Errorf("input 0 is %s, which is neither [N,C] nor [C]", x)
}

// inferRows is what is known of mlRows' first size.
func inferRows(x Info) (Dim, error) {
	switch x.Rank() {
	case -1:
		return Unknown, nil
	case 1:
		return D(1), nil
	case 2:
		return x.Shape[0], nil
	}
	return Unknown, fmt.Errorf("input 0 has shape %v, which is neither [N,C] nor [C]", x.Shape)
}

// byPrecision runs float32 inputs in float32 and all others in float64, which holds int32 exactly and more
// of int64 than any other.
func byPrecision(f32, f64 Kernel) Kernel {
	return Table{tensor.Float32: f32, tensor.Float64: f64, tensor.Int32: f64, tensor.Int64: f64}.By(0)
}

// widened is v as Ts.
func widened[T kernel.Float](v []float32) []T {
	out := make([]T, len(v))
	for i, x := range v {
		out[i] = T(x)
	}
	return out
}

// postTransform is what is done with the scores of one row.
type postTransform int

const (
	noTransform postTransform = iota
	logisticTransform
	softmaxTransform
	softmaxZeroTransform
	probitTransform
)

func (a *attrs) postTransform() postTransform {
	return postTransform(a.choice("post_transform", "NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"))
}

// transformScores applies p to the scores of one row, in place.
func transformScores[T kernel.Float](p postTransform, scores []T) {
	switch p {
	case logisticTransform:
		for i, v := range scores {
			scores[i] = T(logistic(float64(v)))
		}
	case probitTransform:
		for i, v := range scores {
			scores[i] = T(probit(float64(v)))
		}
	case softmaxTransform, softmaxZeroTransform:
		if len(scores) == 0 {
			return
		}
		top, sum := float64(slices.Max(scores)), 0.0
		for i, v := range scores {
			// SOFTMAX_ZERO: scores of zero stay zero
			if e := float64(v); p == softmaxTransform || math.Abs(e) > 1e-7 {
				scores[i] = T(math.Exp(e - top))
				sum += float64(scores[i])
			} else {
				scores[i] = T(e * math.Exp(-top))
			}
		}
		if sum == 0 { // every score is zero
			return
		}
		for i := range scores {
			scores[i] = T(float64(scores[i]) / sum)
		}
	}
}

func logistic(v float64) float64 { return 1 / (1 + math.Exp(-v)) }

// probit is the inverse of the normal distribution's cumulative function by Winitzki's approximation, with
// the constants that the standard's reference implementation and ONNX Runtime have, so that answers agree: the exact
// function differs in the third digit.
func probit(p float64) float64 {
	x := 2*p - 1
	l := math.Log((1 - x) * (1 + x))
	v := 2/(3.14159*0.147) + 0.5*l
	return math.Copysign(math.Sqrt2*math.Sqrt(-v+math.Sqrt(v*v-l/0.147)), x)
}

// pair writes the scores of two classes from the score of the second, as ONNX Runtime does: s and its complement to 1 or,
// where scores have signs, to 0, and with LOGISTIC the probabilities of both.
func (p postTransform) pair(dst []float32, s float32, signed bool) {
	switch {
	case p == logisticTransform:
		dst[0], dst[1] = float32(logistic(-float64(s))), float32(logistic(float64(s)))
	case signed:
		dst[0], dst[1] = -s, s
	default:
		dst[0], dst[1] = 1-s, s
	}
}

// topClass is the first of the greatest scores.
func topClass[T kernel.Float](v []T) int32 {
	at := 0
	for i, x := range v {
		if x > v[at] {
			at = i
		}
	}
	return int32(at)
}
