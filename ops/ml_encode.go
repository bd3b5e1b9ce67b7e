package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Encoders and scalers of features.
func init() {
	float := func(n *Node) ([]Info, error) {
		out := n.In[0]
		out = out.WithoutValue()
		out.DType = tensor.Float32
		return []Info{out}, nil
	}
	register(
		Op{Domain: mlDomain, Name: "ArrayFeatureExtractor", Since: []int{1}, MinIn: 2, Types: []TypeSet{mlNumeric | Of(tensor.String), Of(tensor.Int64)},
			Infer: inferExtract, Compile: fixedKernel(extract), Grad: gradExtract},
		Op{Domain: mlDomain, Name: "Binarizer", Since: []int{1}, MinIn: 1, Types: []TypeSet{mlNumeric}, Infer: SameAs(0), Compile: compileBinarizer, Flat: true},
		Op{Domain: mlDomain, Name: "CategoryMapper", Since: []int{1}, MinIn: 1, Types: []TypeSet{Of(tensor.String, tensor.Int64)},
			Infer: func(n *Node) ([]Info, error) {
				out := n.In[0]
				out = out.WithoutValue()
				switch out.DType {
				case tensor.String:
					out.DType = tensor.Int64
				case tensor.Int64:
					out.DType = tensor.String
				}
				return []Info{out}, nil
			},
			Compile: compileCategoryMapper, NoGrad: "categories are no numbers"},
		Op{Domain: mlDomain, Name: "FeatureVectorizer", Since: []int{1}, MinIn: 1, MaxIn: -1, Types: []TypeSet{mlNumeric},
			Infer: inferVectorize, Compile: compileVectorizer, Grad: gradVectorizer},
		Op{Domain: mlDomain, Name: "Imputer", Since: []int{1}, MinIn: 1, Types: []TypeSet{mlNumeric}, Infer: SameAs(0), Compile: compileImputer, Grad: gradImputer},
		Op{Domain: mlDomain, Name: "LabelEncoder", Since: []int{1, 2, 4}, MinIn: 1,
			Types: []TypeSet{Of(tensor.String, tensor.Int64, tensor.Float32, tensor.Float64, tensor.Int32, tensor.Int16)},
			Infer: inferLabelEncoder, Compile: compileLabelEncoder, NoGrad: "labels are no numbers"},
		Op{Domain: mlDomain, Name: "Normalizer", Since: []int{1}, MinIn: 1, Types: []TypeSet{mlNumeric}, Infer: float, Compile: compileNormalizer, Grad: gradNormalizer},
		Op{Domain: mlDomain, Name: "OneHotEncoder", Since: []int{1}, MinIn: 1, Types: []TypeSet{mlNumeric | Of(tensor.String)},
			Infer: func(n *Node) ([]Info, error) {
				if !n.In[0].Ranked {
					return []Info{Unranked(tensor.Float32)}, nil
				}
				cats := 0
				for _, name := range []string{"cats_int64s", "cats_strings"} {
					if a := n.Attr(name); a != nil {
						cats = max(cats, len(a.Ints), len(a.Strings))
					}
				}
				return []Info{Tensor(tensor.Float32, append(slices.Clone(n.In[0].Shape), D(cats))...)}, nil
			},
			Compile: compileOneHotEncoder, Flat: true},
		Op{Domain: mlDomain, Name: "Scaler", Since: []int{1}, MinIn: 1, Types: []TypeSet{mlNumeric}, Infer: float, Compile: compileScaler, Grad: gradScaler},
	)
}

// fixedKernel is the Compile of an operator without attributes.
func fixedKernel(k Kernel) func(*Node) (Kernel, error) {
	return func(*Node) (Kernel, error) { return k, nil }
}

// inferExtract: X's shape with as many columns as there are indices; one row alone becomes [1,n].
func inferExtract(n *Node) ([]Info, error) {
	x, y := n.In[0], n.In[1]
	if !x.Ranked {
		return []Info{Unranked(x.DType)}, nil
	}
	if len(x.Shape) == 0 {
		return nil, fmt.Errorf("input 0 is a scalar")
	}
	count := Unknown
	if y.Ranked {
		count = dimsProduct(y.Shape)
	}
	if len(x.Shape) == 1 {
		return []Info{Tensor(x.DType, D(1), count)}, nil
	}
	shape := slices.Clone(x.Shape)
	shape[len(shape)-1] = count
	return []Info{Tensor(x.DType, shape...)}, nil
}

func extract(c *Ctx) error {
	x, at := c.In(0), tensor.Data[int64](c.In(1))
	shape := slices.Clone(x.Shape())
	if len(shape) == 1 {
		shape = []int{1, shape[0]}
	}
	width := shape[len(shape)-1]
	for _, i := range at {
		if i < 0 || i >= int64(width) {
			return fmt.Errorf("index %d is outside %d columns", i, width)
		}
	}
	shape[len(shape)-1] = len(at)
	y, err := c.Alloc(0, x.DType(), shape...)
	if err != nil {
		return err
	}
	rows := product(shape[:len(shape)-1])
	if y.Len() == 0 {
		return nil
	}
	return bySize(x.DType(), nil, nil,
		func() { extractColumns(c, tensor.View[uint32](y), tensor.View[uint32](x), at, rows, width) },
		func() { extractColumns(c, tensor.View[uint64](y), tensor.View[uint64](x), at, rows, width) }, nil,
		func() { extractColumns(c, tensor.View[string](y), tensor.View[string](x), at, rows, width) })
}

func extractColumns[T any](c *Ctx, dst, src []T, at []int64, rows, width int) {
	c.Pool.For(rows, 1+moveGrain/len(at), func(lo, hi int) {
		for r := lo; r < hi; r++ {
			for k, i := range at {
				dst[r*len(at)+k] = src[r*width+int(i)]
			}
		}
	})
}

// gradExtract gathers backwards: the columns' gradients are added up by Gather's own gradient.
func gradExtract(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	x := n.Inputs[0]
	if dy[0] == nil || !g.DType(x).IsFloat() {
		return []*onnx.Value{nil, nil}, nil
	}
	// columns to rows, so that ScatterND adds each at its index
	r := g.Rank(dy[0])
	perm := []int64{int64(r) - 1}
	back := []int64{}
	for i := range int64(r) - 1 {
		perm, back = append(perm, i), append(back, i+1)
	}
	back = append(back, 0)
	rows := g.Transpose(dy[0], perm...)
	xt := x
	if g.Rank(x) == 1 {
		xt = g.With("Unsqueeze", nil, x, g.Int64s(0))
	}
	zeros := g.Transpose(g.Sub(xt, xt), perm...)
	at := g.With("Reshape", nil, n.Inputs[1], g.Int64s(-1, 1))
	sum := g.With("ScatterND", []*onnx.Attribute{StringAttr("reduction", "add")}, zeros, at, rows)
	return []*onnx.Value{g.ReshapeLike(g.Transpose(sum, back...), x), nil}, nil
}

func compileBinarizer(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	threshold := float64(a.float("threshold", 0))
	// an integer is above the threshold if it is above the whole number below it
	whole, never, always := int64(0), math.IsNaN(threshold) || threshold >= 1<<63, threshold < -1<<63
	if !never && !always {
		whole = int64(math.Floor(threshold))
	}
	aboveInt := func(v int64) bool { return always || !never && v > whole }
	return Table{
		tensor.Float32: binarize(func(v float32) bool { return float64(v) > threshold }),
		tensor.Float64: binarize(func(v float64) bool { return v > threshold }),
		tensor.Int32:   binarize(func(v int32) bool { return aboveInt(int64(v)) }),
		tensor.Int64:   binarize(aboveInt),
	}.By(0), a.err
}

func binarize[T float32 | float64 | int32 | int64](above func(T) bool) Kernel {
	return func(c *Ctx) error {
		x := c.In(0)
		y, err := c.Alloc(0, x.DType(), x.Shape()...)
		if err != nil {
			return err
		}
		xs, ys := tensor.Data[T](x), tensor.Data[T](y)
		c.Pool.For(len(xs), moveGrain, func(lo, hi int) {
			for i, v := range xs[lo:hi] {
				ys[lo+i] = 0
				if above(v) {
					ys[lo+i] = 1
				}
			}
		})
		return nil
	}
}

func inferVectorize(n *Node) ([]Info, error) {
	rows, width := Unknown, D(0)
	sizes := n.Ints("inputdimensions", nil)
	for i, in := range n.In {
		shape, ok := in.Static()
		if !ok {
			return []Info{Tensor(tensor.Float32, Unknown, Unknown)}, nil
		}
		r, w, err := vectorRows(shape)
		if err != nil {
			return nil, err
		}
		if rows.Known() && rows.N != r {
			return nil, fmt.Errorf("inputs have %d and %d rows", rows.N, r)
		}
		if i < len(sizes) && sizes[i] >= 0 && sizes[i] <= math.MaxInt32 {
			w = int(sizes[i])
		}
		rows, width = D(r), D(width.N+w)
	}
	return []Info{Tensor(tensor.Float32, rows, width)}, nil
}

// vectorRows is a shape as rows of features.
func vectorRows(shape []int) (rows, features int, err error) {
	switch len(shape) {
	case 0:
		return 0, 0, fmt.Errorf("an input is a scalar")
	case 1:
		return 1, shape[0], nil
	}
	return shape[0], product(shape[1:]), nil
}

func compileVectorizer(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	sizes := a.ints("inputdimensions")
	if len(sizes) != 0 && len(sizes) != len(n.Inputs) {
		a.fail("attribute inputdimensions has %d elements for %d inputs", len(sizes), len(n.Inputs))
	}
	for _, w := range sizes {
		if w < 0 || w > math.MaxInt32 {
			a.fail("attribute inputdimensions holds %d", w)
		}
	}
	return func(c *Ctx) error {
		parts := make([][]float32, len(c.Ins))
		widths, strides := make([]int, len(c.Ins)), make([]int, len(c.Ins))
		rows, total := -1, 0
		for i := range c.Ins {
			x := c.In(i)
			if x == nil {
				return fmt.Errorf("input %d is not a tensor", i)
			}
			r, w, err := vectorRows(x.Shape())
			if err != nil {
				return err
			}
			if rows >= 0 && r != rows {
				return fmt.Errorf("inputs have %d and %d rows", rows, r)
			}
			rows, strides[i], widths[i] = r, w, w
			if len(sizes) != 0 {
				widths[i] = int(sizes[i])
			}
			total += widths[i]
			if parts[i], err = floatsOf[float32](c, i); err != nil {
				return err
			}
		}
		y, err := c.Alloc(0, tensor.Float32, rows, total)
		if err != nil {
			return err
		}
		ys, at := tensor.Data[float32](y), 0
		clear(ys)
		for i, p := range parts {
			for r := range rows { // features beyond the declared ones are left out, missing ones are 0
				copy(ys[r*total+at:r*total+at+widths[i]], p[r*strides[i]:(r+1)*strides[i]])
			}
			at += widths[i]
		}
		return nil
	}, a.err
}

// gradVectorizer cuts the gradient where the inputs were joined. Features that were left out get zeros, and those that were missing give none back.
func gradVectorizer(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	dx := make([]*onnx.Value, len(n.Inputs))
	sizes, at := n.Ints("inputdimensions", nil), g.Int64s(0)
	for i, x := range n.Inputs {
		if x == nil {
			return nil, fmt.Errorf("input %d is left out", i)
		}
		var width *onnx.Value
		if g.Rank(x) == 1 {
			width = g.Shape(x)
		} else {
			width = g.With("ReduceProd", []*onnx.Attribute{IntAttr("keepdims", 1)}, g.Tail(g.Shape(x), 1))
		}
		used := width
		if i < len(sizes) {
			used = g.Int64s(sizes[i])
		}
		end := g.Add(at, used)
		if g.DType(x).IsFloat() {
			part := g.Op("Slice", dy[0], at, end, g.Int64s(1))
			if used != width {
				part = g.Op("Pad", part, g.Concat(g.Int64s(0, 0, 0), g.Sub(width, used)))
			}
			dx[i] = g.ReshapeLike(g.Op("CastLike", part, x), x)
		}
		at = end
	}
	return dx, nil
}

func compileImputer(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	floats, ints := a.floats("imputed_value_floats"), a.ints("imputed_value_int64s")
	oldFloat, oldInt := a.float("replaced_value_float", 0), a.int("replaced_value_int64", 0)
	if (len(floats) == 0) == (len(ints) == 0) {
		a.fail("exactly one of the attributes imputed_value_floats and imputed_value_int64s must be given")
	}
	narrow := make([]int32, len(ints))
	fits := oldInt == int64(int32(oldInt))
	for i, v := range ints {
		narrow[i] = int32(v)
		fits = fits && int64(narrow[i]) == v
	}
	if len(ints) > 0 && n.In[0].DType == tensor.Int32 && !fits {
		a.fail("an imputed or replaced value does not fit int32")
	}
	t := Table{}
	if len(floats) > 0 {
		t[tensor.Float32], t[tensor.Float64] = impute(floats, oldFloat), impute(widened[float64](floats), float64(oldFloat))
	} else if t[tensor.Int64] = impute(ints, oldInt); fits {
		t[tensor.Int32] = impute(narrow, int32(oldInt))
	}
	return t.By(0), a.err
}

func impute[T float32 | float64 | int32 | int64](values []T, old T) Kernel {
	return func(c *Ctx) error {
		x := c.In(0)
		if s := x.Shape(); len(values) != 1 && (len(s) == 0 || s[len(s)-1] != len(values)) {
			return fmt.Errorf("%d imputed values for features of %s", len(values), x)
		}
		y, err := c.Alloc(0, x.DType(), x.Shape()...)
		if err != nil {
			return err
		}
		ys := tensor.Data[T](y)
		for i, v := range tensor.Data[T](x) {
			if v == old || v != v && old != old { // NaN stands for what is missing
				v = values[i%len(values)]
			}
			ys[i] = v
		}
		return nil
	}
}

// gradImputer lets the gradient of what was not replaced through.
func gradImputer(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	x := n.Inputs[0]
	if !g.DType(x).IsFloat() {
		return []*onnx.Value{nil}, nil
	}
	var replaced *onnx.Value
	if old := n.Float("replaced_value_float", 0); old != old {
		replaced = g.Op("IsNaN", x)
	} else {
		replaced = g.Op("Equal", x, g.Like(x, float64(old)))
	}
	return []*onnx.Value{g.Op("Where", replaced, g.Like(x, 0), dy[0])}, nil
}

func compileNormalizer(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	norm := a.choice("norm", "MAX", "L1", "L2")
	return byPrecision(normalizeRows[float32](norm), normalizeRows[float64](norm)), a.err
}

// normalizeRows divides each row by its norm: 0 its greatest element, 1 the sum of magnitudes, 2 the Euclidean norm. (The standard's text
// says sum for the second; its reference implementation and ONNX Runtime sum magnitudes.)
func normalizeRows[T kernel.Float](norm int) Kernel {
	return func(c *Ctx) error {
		rows, features, err := mlRows(c.In(0))
		if err != nil {
			return err
		}
		x, err := floatsOf[T](c, 0)
		if err != nil {
			return err
		}
		t, err := c.Alloc(0, tensor.Float32, c.In(0).Shape()...)
		if err != nil {
			return err
		}
		y := tensor.Data[float32](t)
		c.Pool.For(rows, 1+moveGrain/max(1, features), func(lo, hi int) {
			for r := lo; r < hi; r++ {
				row := x[r*features : (r+1)*features]
				d := 0.0
				switch norm {
				case 0:
					d = math.Inf(-1)
					for _, v := range row {
						d = max(d, float64(v))
					}
				case 1:
					for _, v := range row {
						d += math.Abs(float64(v))
					}
				default:
					for _, v := range row {
						d += float64(v) * float64(v)
					}
					d = math.Sqrt(d)
				}
				if d == 0 {
					d = 1
				}
				for i, v := range row {
					y[r*features+i] = float32(float64(v) / d)
				}
			}
		})
		return nil
	}
}

// gradNormalizer: y = x/N(x) has dX = (dY − N'(x)·Σ dY·y)/N, and dX = dY where N is 0.
func gradNormalizer(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	x := n.Inputs[0]
	if !g.DType(x).IsFloat() {
		return []*onnx.Value{nil}, nil
	}
	sum := func(v *onnx.Value) *onnx.Value { return g.ReduceSum(v, true, -1) }
	var norm, slope *onnx.Value
	switch n.Str("norm", "MAX") {
	case "L1":
		norm, slope = sum(g.Op("Abs", x)), g.Op("Sign", x)
	case "L2":
		norm = g.Op("Sqrt", sum(g.Mul(x, x)))
	default:
		norm = g.With("ReduceMax", nil, x, g.Int64s(-1))
		top := g.Op("CastLike", g.Op("Equal", x, norm), x)
		slope = g.Div(top, sum(top))
	}
	zero := g.Op("Equal", norm, g.Like(x, 0))
	norm = g.Op("Where", zero, g.Like(x, 1), norm)
	y := g.Div(x, norm)
	if slope == nil {
		slope = y
	}
	slope = g.Op("Where", zero, g.Like(x, 0), slope)
	d := g.Op("CastLike", dy[0], x)
	return []*onnx.Value{g.Div(g.Sub(d, g.Mul(slope, sum(g.Mul(d, y)))), norm)}, nil
}

// scaling is Scaler's attributes.
func scaling(n *Node) (offset, scale []float32, err error) {
	a := &attrs{n: n}
	offset, scale = a.floats("offset"), a.floats("scale")
	if len(offset) != 0 && len(scale) != 0 && len(offset) != len(scale) {
		a.fail("attributes offset and scale have %d and %d elements", len(offset), len(scale))
	}
	if len(offset) == 0 {
		offset = []float32{0}
	}
	if len(scale) == 0 {
		scale = []float32{1}
	}
	return offset, scale, a.err
}

func compileScaler(n *Node) (Kernel, error) {
	offset, scale, err := scaling(n)
	return byPrecision(scaleFeatures[float32](offset, scale), scaleFeatures[float64](offset, scale)), err
}

func scaleFeatures[T kernel.Float](offset32, scale32 []float32) Kernel {
	offset, scale := widened[T](offset32), widened[T](scale32)
	return func(c *Ctx) error {
		t := c.In(0)
		features := 1
		if s := t.Shape(); len(s) > 0 {
			features = s[len(s)-1]
		}
		for _, v := range [][]T{offset, scale} {
			if len(v) != 1 && len(v) != features {
				return fmt.Errorf("%d offsets or scales for features of %s", len(v), t)
			}
		}
		x, err := floatsOf[T](c, 0)
		if err != nil {
			return err
		}
		out, err := c.Alloc(0, tensor.Float32, t.Shape()...)
		if err != nil {
			return err
		}
		y := tensor.Data[float32](out)
		if features == 0 {
			return nil
		}
		c.Pool.For(len(x)/features, 1+moveGrain/features, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				row := x[r*features : (r+1)*features]
				o, s := offset[0], scale[0]
				for i, v := range row {
					if len(offset) > 1 {
						o = offset[i]
					}
					if len(scale) > 1 {
						s = scale[i]
					}
					y[r*features+i] = float32((v - o) * s)
				}
			}
		})
		return nil
	}
}

func gradScaler(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	x := n.Inputs[0]
	if dy[0] == nil || !g.DType(x).IsFloat() {
		return []*onnx.Value{nil}, nil
	}
	_, scale, err := scaling(n)
	if err != nil {
		return nil, err
	}
	s := g.Const(tensor.Scalar(scale[0]))
	if len(scale) > 1 {
		s = g.Const(tensor.New(scale))
	}
	return []*onnx.Value{g.Op("CastLike", g.Mul(dy[0], s), x)}, nil
}

// finder gives each element's place among keys, -1 where it is none of them.
type finder func(x *tensor.Tensor, at []int32)

// findIn is the finder of keys; of repeated ones the last counts. NaN is a key like others.
func findIn[K comparable](keys []K, read func(x *tensor.Tensor) []K) finder {
	index := make(map[K]int32, len(keys))
	nan := int32(-1)
	for i, k := range keys {
		if k != k {
			nan = int32(i)
		} else {
			index[k] = int32(i)
		}
	}
	return func(x *tensor.Tensor, at []int32) {
		for i, k := range read(x) {
			if j, ok := index[k]; ok {
				at[i] = j
			} else if at[i] = -1; k != k {
				at[i] = nan
			}
		}
	}
}

// keyFinder is the finder of a tensor of keys, for inputs of its type.
func keyFinder(keys *tensor.Tensor) (finder, error) {
	switch keys.DType() {
	case tensor.String:
		return findIn(tensor.Data[string](keys), tensor.Data[string]), nil
	case tensor.Int64:
		return findIn(tensor.Data[int64](keys), tensor.Data[int64]), nil
	case tensor.Int32:
		return findIn(tensor.Data[int32](keys), tensor.Data[int32]), nil
	case tensor.Int16:
		return findIn(tensor.Data[int16](keys), tensor.Data[int16]), nil
	case tensor.Float32:
		return findIn(tensor.Data[float32](keys), tensor.Data[float32]), nil
	case tensor.Float64:
		return findIn(tensor.Data[float64](keys), tensor.Data[float64]), nil
	}
	return nil, fmt.Errorf("keys of type %s are not supported", keys.DType())
}

// lookUp maps the elements of x through find to values, or to def's one element where they are no keys.
func lookUp(c *Ctx, x *tensor.Tensor, find finder, values, def *tensor.Tensor) error {
	t, err := c.New(tensor.Int32, x.Shape()...)
	if err != nil {
		return err
	}
	at := tensor.Data[int32](t)
	find(x, at)
	y, err := c.Alloc(0, values.DType(), x.Shape()...)
	if err != nil {
		return err
	}
	return bySize(values.DType(),
		func() { pick[uint8](y, values, def, at) }, func() { pick[uint16](y, values, def, at) },
		func() { pick[uint32](y, values, def, at) }, func() { pick[uint64](y, values, def, at) },
		func() { pick[complex128](y, values, def, at) }, func() { pick[string](y, values, def, at) })
}

func pick[T tensor.Element](dst, values, def *tensor.Tensor, at []int32) {
	d, v, other := tensor.View[T](dst), tensor.View[T](values), tensor.View[T](def)[0]
	for i, k := range at {
		if d[i] = other; k >= 0 {
			d[i] = v[k]
		}
	}
}

func compileCategoryMapper(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	ints, names := a.ints("cats_int64s"), a.strings("cats_strings")
	defInt, defName := tensor.Scalar(a.int("default_int64", -1)), tensor.Scalar(a.str("default_string", "_Unused"))
	if len(ints) != len(names) {
		a.fail("attributes cats_int64s and cats_strings have %d and %d elements", len(ints), len(names))
	}
	if a.err != nil {
		return nil, a.err
	}
	byName, byInt := findIn(names, tensor.Data[string]), findIn(ints, tensor.Data[int64])
	toInts, toNames := tensor.New(ints, len(ints)), tensor.New(names, len(names))
	return Table{
		tensor.String: func(c *Ctx) error { return lookUp(c, c.In(0), byName, toInts, defInt) },
		tensor.Int64:  func(c *Ctx) error { return lookUp(c, c.In(0), byInt, toNames, defName) },
	}.By(0), nil
}

// encoding is LabelEncoder's attributes since opset 2: keys, values and what stands for other keys.
func encoding(n *Node) (keys, values, def *tensor.Tensor, err error) {
	a := &attrs{n: n}
	one := func(kind string) *tensor.Tensor {
		var found []*tensor.Tensor
		if v := a.strings(kind + "_strings"); len(v) > 0 {
			found = append(found, tensor.New(v))
		}
		if v := a.ints(kind + "_int64s"); len(v) > 0 {
			found = append(found, tensor.New(v))
		}
		if v := a.floats(kind + "_floats"); len(v) > 0 {
			found = append(found, tensor.New(v))
		}
		if n.Since >= 4 {
			if t := a.tensor(kind + "_tensor"); t != nil {
				found = append(found, t)
			}
		}
		if len(found) != 1 {
			a.fail("exactly one of the attributes %s_… must be given, there are %d", kind, len(found))
			return nil
		}
		return found[0]
	}
	keys, values = one("keys"), one("values")
	if a.err != nil {
		return nil, nil, nil, a.err
	}
	if keys.Len() != values.Len() {
		return nil, nil, nil, fmt.Errorf("%d keys for %d values", keys.Len(), values.Len())
	}
	if n.Since >= 4 {
		if def = a.tensor("default_tensor"); def != nil && (def.DType() != values.DType() || def.Len() != 1) {
			a.fail("attribute default_tensor is %s, for values of type %s", def, values.DType())
		}
	}
	if def == nil {
		switch d := values.DType(); d {
		case tensor.String:
			def = tensor.Scalar(a.str("default_string", "_Unused"))
		case tensor.Int64:
			def = tensor.Scalar(a.int("default_int64", -1))
		case tensor.Float32:
			def = tensor.Scalar(a.float("default_float", float32(math.Copysign(0, -1))))
		case tensor.Float64:
			def = tensor.Scalar(math.Copysign(0, -1))
		case tensor.Int32:
			def = tensor.Scalar(int32(-1))
		case tensor.Int16:
			def = tensor.Scalar(int16(-1))
		default:
			a.fail("values of type %s are not supported", d)
		}
	}
	return keys, values, def, a.err
}

func inferLabelEncoder(n *Node) ([]Info, error) {
	out := n.In[0]
	out = out.WithoutValue()
	if n.Since == 1 {
		switch out.DType {
		case tensor.String:
			out.DType = tensor.Int64
		case tensor.Int64:
			out.DType = tensor.String
		}
		return []Info{out}, nil
	}
	_, values, _, err := encoding(n)
	if err != nil {
		return nil, err
	}
	out.DType = values.DType()
	return []Info{out}, nil
}

func compileLabelEncoder(n *Node) (Kernel, error) {
	if n.Since == 1 { // names to their places, and back
		a := &attrs{n: n}
		names := a.strings("classes_strings")
		defInt, defName := tensor.Scalar(a.int("default_int64", -1)), tensor.Scalar(a.str("default_string", "_Unused"))
		places := make([]int64, len(names))
		for i := range places {
			places[i] = int64(i)
		}
		byName, byPlace := findIn(names, tensor.Data[string]), findIn(places, tensor.Data[int64])
		toPlaces, toNames := tensor.New(places, len(places)), tensor.New(names, len(names))
		return Table{
			tensor.String: func(c *Ctx) error { return lookUp(c, c.In(0), byName, toPlaces, defInt) },
			tensor.Int64:  func(c *Ctx) error { return lookUp(c, c.In(0), byPlace, toNames, defName) },
		}.By(0), a.err
	}
	keys, values, def, err := encoding(n)
	if err != nil {
		return nil, err
	}
	find, err := keyFinder(keys)
	if err != nil {
		return nil, err
	}
	return func(c *Ctx) error {
		if x := c.In(0); x == nil || x.DType() != keys.DType() {
			return fmt.Errorf("input 0 is %v, the keys are of type %s", x, keys.DType())
		}
		return lookUp(c, c.In(0), find, values, def)
	}, nil
}

func compileOneHotEncoder(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	cats := a.labels("cats_strings", "cats_int64s")
	zeros := a.int("zeros", 1) != 0
	if a.err != nil {
		return nil, a.err
	}
	oneHot := func(find finder) Kernel {
		return func(c *Ctx) error {
			x := c.In(0)
			t, err := c.New(tensor.Int32, x.Shape()...)
			if err != nil {
				return err
			}
			y, err := c.Alloc(0, tensor.Float32, append(slices.Clone(x.Shape()), cats.len())...)
			if err != nil {
				return err
			}
			at, ys := tensor.Data[int32](t), tensor.Data[float32](y)
			find(x, at)
			clear(ys)
			for i, k := range at {
				if k >= 0 {
					ys[i*cats.len()+int(k)] = 1
				} else if !zeros {
					return fmt.Errorf("element %d is none of the categories", i)
				}
			}
			return nil
		}
	}
	if cats.strings != nil {
		return Table{tensor.String: oneHot(findIn(cats.strings, tensor.Data[string]))}.By(0), nil
	}
	whole := func(v float64, known bool) wholeNumber {
		if known && v > -1<<63 && v < 1<<63 {
			return wholeNumber{int64(v), true}
		}
		return wholeNumber{}
	}
	keys := make([]wholeNumber, len(cats.ints))
	for i, k := range cats.ints {
		keys[i] = wholeNumber{k, true}
	}
	fromFloat := findIn(keys, func(x *tensor.Tensor) []wholeNumber {
		out := make([]wholeNumber, x.Len())
		for i := range out {
			v := tensor.Float64At(x, i)
			out[i] = whole(v, v == v)
		}
		return out
	})
	narrow := findIn(cats.ints, func(x *tensor.Tensor) []int64 {
		v, _ := x.Int64s() // an int32 or int64 tensor has them
		return v
	})
	return Table{tensor.Int64: oneHot(narrow), tensor.Int32: oneHot(narrow), tensor.Float32: oneHot(fromFloat), tensor.Float64: oneHot(fromFloat)}.By(0), nil
}

// wholeNumber is a float cut to an integer, ok false if it has none.
type wholeNumber struct {
	v  int64
	ok bool
}
