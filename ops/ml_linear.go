package ops

import (
	"fmt"
	"math"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Linear models and support vector machines.
func init() {
	register(
		Op{Domain: mlDomain, Name: "LinearRegressor", Since: []int{1}, MinIn: 1, Types: []TypeSet{mlNumeric},
			Infer: func(n *Node) ([]Info, error) {
				rows, err := inferRows(n.In[0])
				return []Info{Tensor(tensor.Float32, rows, D(int(max(1, min(n.Int("targets", 1), math.MaxInt32)))))}, err
			},
			Compile: compileLinearRegressor, Grad: gradLinearRegressor},
		Op{Domain: mlDomain, Name: "LinearClassifier", Since: []int{1}, MinIn: 1, MinOut: 1, MaxOut: 2, Types: []TypeSet{mlNumeric},
			Infer: inferClassifier("classlabels_strings", "classlabels_ints"), Compile: compileLinearClassifier, Grad: gradLinearClassifier},
		Op{Domain: mlDomain, Name: "SVMRegressor", Since: []int{1}, MinIn: 1, Types: []TypeSet{mlNumeric},
			Infer: func(n *Node) ([]Info, error) {
				rows, err := inferRows(n.In[0])
				return []Info{Tensor(tensor.Float32, rows, D(1))}, err
			},
			Compile: compileSVMRegressor, Grad: gradSVMRegressor},
		Op{Domain: mlDomain, Name: "SVMClassifier", Since: []int{1}, MinIn: 1, MinOut: 1, MaxOut: 2, Types: []TypeSet{mlNumeric},
			Infer: inferClassifier("classlabels_strings", "classlabels_ints"), Compile: compileSVMClassifier, Grad: gradSVMClassifier},
	)
}

// inferClassifier: labels [N], and scores [N,E] whose width is the kernel's to say.
func inferClassifier(stringsName, intsName string) func(*Node) ([]Info, error) {
	return func(n *Node) ([]Info, error) {
		rows, err := inferRows(n.In[0])
		if err != nil {
			return nil, err
		}
		d := tensor.Int64
		if a := n.Attr(stringsName); a != nil && len(a.Strings) > 0 {
			d = tensor.String
		}
		return []Info{Tensor(d, rows), Tensor(tensor.Float32, rows, Unknown)}, nil
	}
}

// linearRows is x·wᵀ + bias for rows of x; w has len(bias) rows.
func linearRows[T kernel.Float](c *Ctx, x []T, rows, features int, w, bias []T) ([]T, error) {
	targets := len(bias)
	t, err := c.New(tensor.TypeOf[T](), rows, targets)
	if err != nil {
		return nil, err
	}
	y := tensor.Data[T](t)
	for i := range rows {
		copy(y[i*targets:], bias)
	}
	kernel.Gemm(c.Pool, false, true, rows, targets, features, 1, x, features, w, features, 1, y, targets)
	return y, nil
}

func compileLinearRegressor(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	coefficients, intercepts, post := a.floats("coefficients"), a.floats("intercepts"), a.postTransform()
	targets := a.int("targets", 1)
	switch {
	case targets < 1 || targets > int64(len(coefficients)):
		a.fail("attribute targets is %d, with %d coefficients", targets, len(coefficients))
	case int64(len(coefficients))%targets != 0:
		a.fail("%d coefficients cannot be those of %d targets", len(coefficients), targets)
	case len(intercepts) != 0 && int64(len(intercepts)) != targets:
		a.fail("%d intercepts for %d targets", len(intercepts), targets)
	}
	if a.err != nil {
		return nil, a.err
	}
	if len(intercepts) == 0 {
		intercepts = make([]float32, targets)
	}
	return byPrecision(linearRegressor[float32](coefficients, intercepts, post), linearRegressor[float64](coefficients, intercepts, post)), nil
}

func linearRegressor[T kernel.Float](coefficients, intercepts []float32, post postTransform) Kernel {
	w, b := widened[T](coefficients), widened[T](intercepts)
	return func(c *Ctx) error {
		rows, features, err := mlRows(c.In(0))
		if err != nil {
			return err
		}
		if features*len(b) != len(w) {
			return fmt.Errorf("input 0 has %d features, the model %d", features, len(w)/len(b))
		}
		x, err := floatsOf[T](c, 0)
		if err != nil {
			return err
		}
		y, err := linearRows(c, x, rows, features, w, b)
		if err != nil {
			return err
		}
		return storeScores(c, 0, y, rows, len(b), post)
	}
}

// storeScores makes y, rows of width scores, output i after the transform.
func storeScores[T kernel.Float](c *Ctx, i int, y []T, rows, width int, post postTransform) error {
	t, err := c.Alloc(i, tensor.Float32, rows, width)
	if err != nil {
		return err
	}
	z := tensor.Data[float32](t)
	for k, v := range y {
		z[k] = float32(v)
	}
	if post != noTransform {
		c.Pool.For(rows, 1+2048/max(1, width), func(lo, hi int) {
			for r := lo; r < hi; r++ {
				transformScores(post, z[r*width:(r+1)*width])
			}
		})
	}
	return nil
}

// gradScores is the gradient of output i, the scores of rows of input 0 after a transform; compose makes them before it. The weights are
// attributes, which nothing trains.
func gradScores(g *Grad, n *Node, i int, d *onnx.Value, post postTransform, compose func(g *Grad, rows *onnx.Value) *onnx.Value) ([]*onnx.Value, error) {
	if d == nil || !g.DType(n.Inputs[0]).IsFloat() {
		return []*onnx.Value{nil}, nil
	}
	y := n.Outputs[i]
	switch post {
	case logisticTransform:
		d = g.Mul(d, g.Mul(y, g.Sub(g.Like(y, 1), y)))
	case softmaxTransform, softmaxZeroTransform:
		d = g.Mul(y, g.Sub(d, g.ReduceSum(g.Mul(d, y), true, 1)))
	}
	dy := make([]*onnx.Value, len(n.Outputs))
	dy[i] = d
	return g.Through(n, dy, func(g *Grad, in []*onnx.Value) []*onnx.Value {
		rows := in[0]
		if g.Rank(rows) == 1 {
			rows = g.Op("Unsqueeze", rows, g.Int64s(0))
		}
		out := make([]*onnx.Value, i+1)
		if out[i] = compose(g, rows); post == probitTransform {
			out[i] = g.probit(out[i])
		}
		out[i] = g.Op("CastLike", out[i], d)
		return out
	})
}

// matrix is a constant of rows×columns in v's element type, transposed.
func (g *Grad) matrix(v *onnx.Value, rows int, w []float32) *onnx.Value {
	if rows < 1 || len(w)%rows != 0 {
		g.fail(fmt.Errorf("%d coefficients do not divide into %d rows", len(w), rows))
		return v
	}
	cols := len(w) / rows
	t, err := tensor.Zeros(g.DType(v), cols, rows)
	if err != nil {
		g.fail(err)
		return v
	}
	for i, x := range w {
		tensor.SetFloat64At(t, i%cols*rows+i/cols, float64(x))
	}
	return g.Const(t)
}

// linear is x times the rows of w, and, if there are any, biases.
func (g *Grad) linear(x *onnx.Value, rows int, w, bias []float32) *onnx.Value {
	y := g.MatMul(x, g.matrix(x, rows, w))
	if len(bias) > 0 {
		y = g.Add(y, g.matrix(x, len(bias), bias))
	}
	return y
}

// probit is [probit] as nodes.
func (g *Grad) probit(p *onnx.Value) *onnx.Value {
	p = g.With("Cast", []*onnx.Attribute{IntAttr("to", int64(tensor.Float64))}, p) // most of it cancels
	number := func(v float64) *onnx.Value { return g.Like(p, v) }
	x := g.Sub(g.Mul(number(2), p), number(1))
	l := g.Op("Log", g.Mul(g.Sub(number(1), x), g.Add(number(1), x)))
	v := g.Add(number(2/(3.14159*0.147)), g.Mul(number(0.5), l))
	root := g.Op("Sqrt", g.Sub(g.Op("Sqrt", g.Sub(g.Mul(v, v), g.Div(l, number(0.147)))), v))
	return g.Mul(g.Op("Sign", x), g.Mul(number(math.Sqrt2), root))
}

// columns puts the score of the second of two classes beside that of the first, as [postTransform.pair] does but for a transform.
func (g *Grad) columns(s *onnx.Value, signed bool) *onnx.Value {
	first := g.Neg(s)
	if !signed {
		first = g.Sub(g.Like(s, 1), s)
	}
	return g.With("Concat", []*onnx.Attribute{IntAttr("axis", 1)}, first, s)
}

func gradLinearRegressor(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	a := &attrs{n: n}
	w, bias, targets, post := a.floats("coefficients"), a.floats("intercepts"), int(a.int("targets", 1)), a.postTransform()
	if a.err != nil {
		return nil, a.err
	}
	return gradScores(g, n, 0, dy[0], post, func(g *Grad, x *onnx.Value) *onnx.Value { return g.linear(x, targets, w, bias) })
}

func gradLinearClassifier(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	if len(dy) < 2 {
		return nil, nil
	}
	a := &attrs{n: n}
	w, bias, post := a.floats("coefficients"), a.floats("intercepts"), a.postTransform()
	rows := len(bias)
	classes := a.labels("classlabels_strings", "classlabels_ints").len()
	if a.err != nil {
		return nil, a.err
	}
	if rows == 0 { // without intercepts the features tell
		s := g.Info(n.Inputs[0]).Shape
		if len(s) == 0 || s[len(s)-1].N < 1 {
			return nil, fmt.Errorf("neither the intercepts nor the number of features are known")
		}
		rows = len(w) / s[len(s)-1].N
	}
	if rows == 1 && classes == 2 {
		logistic := post == logisticTransform
		if !logistic {
			post = noTransform
		}
		return gradScores(g, n, 1, dy[1], post, func(g *Grad, x *onnx.Value) *onnx.Value {
			return g.columns(g.linear(x, 1, w, bias), logistic)
		})
	}
	return gradScores(g, n, 1, dy[1], post, func(g *Grad, x *onnx.Value) *onnx.Value { return g.linear(x, rows, w, bias) })
}

// supports is the kernel function of every row of x with every vector.
func (s svmAttrs) supports(g *Grad, x *onnx.Value) *onnx.Value {
	k := g.MatMul(x, g.matrix(x, int(s.count), s.vectors))
	if s.function == linearSVM || len(s.params) != 3 {
		return k
	}
	number := func(v float64) *onnx.Value { return g.Like(x, v) }
	gamma, coef0, degree := float64(s.params[0]), float64(s.params[1]), float64(s.params[2])
	if s.function == rbfSVM { // |x|² − 2x·v + |v|²
		norms := make([]float32, s.count)
		width := len(s.vectors) / len(norms)
		squares := make([]float64, len(norms))
		for i, v := range s.vectors {
			squares[i/width] += float64(v) * float64(v)
		}
		for i, v := range squares {
			norms[i] = float32(v)
		}
		d := g.Sub(g.Add(g.ReduceSum(g.Mul(x, x), true, 1), g.matrix(x, len(norms), norms)), g.Mul(number(2), k))
		return g.Op("Exp", g.Mul(number(-gamma), d))
	}
	k = g.Add(g.Mul(number(gamma), k), number(coef0))
	if s.function == sigmoidSVM {
		return g.Op("Tanh", k)
	}
	return g.Op("Pow", k, number(degree))
}

func gradSVMRegressor(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	a := &attrs{n: n}
	s := readSVM(a, a.int("n_supports", 0))
	sign := a.int("one_class", 0) != 0
	if a.err != nil || sign { // a sign is constant almost everywhere
		return nil, a.err
	}
	return gradScores(g, n, 0, dy[0], s.post, func(g *Grad, x *onnx.Value) *onnx.Value {
		if s.count > 0 {
			x = s.supports(g, x)
		}
		return g.linear(x, 1, s.coefficients, s.rho)
	})
}

func gradSVMClassifier(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
	if len(dy) < 2 {
		return nil, nil
	}
	a := &attrs{n: n}
	k := a.labels("classlabels_strings", "classlabels_ints").len()
	var starts []int
	count := 0
	for _, v := range a.ints("vectors_per_class") {
		starts = append(starts, count)
		count += int(v)
	}
	starts = append(starts, count)
	s := readSVM(a, int64(count))
	switch {
	case a.err != nil:
		return nil, a.err
	case len(a.floats("prob_a")) > 0:
		return nil, fmt.Errorf("the calibrated probabilities (prob_a) are iterated to a tolerance, and have none")
	case count == 0:
		return gradScores(g, n, 1, dy[1], s.post, func(g *Grad, x *onnx.Value) *onnx.Value { return g.linear(x, k, s.coefficients, s.rho) })
	case len(starts) != k+1 || len(s.coefficients) != (k-1)*count:
		return nil, fmt.Errorf("%d coefficients do not suit %d support vectors of %d classes", len(s.coefficients), count, k)
	}
	// Each pair of classes weighs the vectors of both.
	var w []float32
	for i := range k {
		for j := i + 1; j < k; j++ {
			row := make([]float32, count)
			copy(row[starts[i]:starts[i+1]], s.coefficients[(j-1)*count+starts[i]:])
			copy(row[starts[j]:starts[j+1]], s.coefficients[i*count+starts[j]:])
			w = append(w, row...)
		}
	}
	post := s.post
	if k == 2 && post != logisticTransform {
		post = noTransform
	}
	return gradScores(g, n, 1, dy[1], post, func(g *Grad, x *onnx.Value) *onnx.Value {
		scores := s.supports(g, x)
		scores = g.linear(scores, k*(k-1)/2, w, s.rho)
		if k == 2 {
			scores = g.columns(scores, s.post == noTransform || s.post == logisticTransform)
		}
		return scores
	})
}

func compileLinearClassifier(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	coefficients, intercepts, post := a.floats("coefficients"), a.floats("intercepts"), a.postTransform()
	classes := a.labels("classlabels_strings", "classlabels_ints")
	a.int("multi_class", 0) // says how the model was trained; the scores are the same
	targets := len(intercepts)
	if len(coefficients) == 0 {
		a.fail("attribute coefficients is missing")
	}
	if targets != 0 && len(coefficients)%targets != 0 {
		a.fail("%d coefficients cannot be those of %d intercepts", len(coefficients), targets)
	}
	if a.err != nil {
		return nil, a.err
	}
	return byPrecision(linearClassifier[float32](coefficients, intercepts, classes, post),
		linearClassifier[float64](coefficients, intercepts, classes, post)), nil
}

func linearClassifier[T kernel.Float](coefficients, intercepts []float32, classes labels, post postTransform) Kernel {
	w, bias := widened[T](coefficients), widened[T](intercepts)
	return func(c *Ctx) error {
		rows, features, err := mlRows(c.In(0))
		if err != nil {
			return err
		}
		b := bias
		if len(b) == 0 && features > 0 {
			b = make([]T, len(w)/features)
		}
		if features*len(b) != len(w) {
			return fmt.Errorf("input 0 has %d features, the model %d coefficients for %d classes", features, len(w), max(1, len(b)))
		}
		if len(b) != classes.len() && (len(b) != 1 || classes.len() != 2) {
			return fmt.Errorf("%d rows of coefficients for %d classes", len(b), classes.len())
		}
		x, err := floatsOf[T](c, 0)
		if err != nil {
			return err
		}
		y, err := linearRows(c, x, rows, features, w, b)
		if err != nil {
			return err
		}
		top := make([]int32, rows)
		if len(b) == 1 && classes.len() == 2 { // the score of the second class alone
			if post == probitTransform && c.Wants(1) {
				return fmt.Errorf("post_transform PROBIT of one row of coefficients for two classes is not supported")
			}
			var z []float32
			if c.Wants(1) {
				t, err := c.Alloc(1, tensor.Float32, rows, 2)
				if err != nil {
					return err
				}
				z = tensor.Data[float32](t)
			}
			for r, s := range y {
				if s > 0 {
					top[r] = 1
				}
				if z != nil {
					post.pair(z[2*r:2*r+2], float32(s), false)
				}
			}
			return classes.write(c, top)
		}
		for r := range top {
			top[r] = topClass(y[r*len(b) : (r+1)*len(b)])
		}
		if c.Wants(1) {
			if err := storeScores(c, 1, y, rows, len(b), post); err != nil {
				return err
			}
		}
		return classes.write(c, top)
	}
}

// svm is what SVMClassifier and SVMRegressor have in common: vectors and the kernel function.
type svm[T kernel.Float] struct {
	function              int // linearSVM and so on
	gamma, coef0, degree  T
	vectors, coefficients []T
	count, features       int // vectors are [count,features]
}

const (
	linearSVM = iota
	polySVM
	rbfSVM
	sigmoidSVM
)

// svmAttrs is the attributes that both operators have.
type svmAttrs struct {
	function                           int
	params, vectors, coefficients, rho []float32
	count                              int64
	post                               postTransform
}

func readSVM(a *attrs, count int64) svmAttrs {
	s := svmAttrs{function: a.choice("kernel_type", "LINEAR", "POLY", "RBF", "SIGMOID"), params: a.floats("kernel_params"),
		vectors: a.floats("support_vectors"), coefficients: a.floats("coefficients"), rho: a.floats("rho"),
		count: count, post: a.postTransform()}
	switch {
	case len(s.params) != 0 && len(s.params) != 3:
		a.fail("attribute kernel_params has %d elements, not 3", len(s.params))
	case len(s.params) == 0 && s.function != linearSVM:
		a.fail("attribute kernel_params is missing, which the kernel needs")
	case count > 0 && (int64(len(s.vectors))%count != 0 || len(s.vectors) == 0):
		a.fail("%d elements cannot be those of %d support vectors", len(s.vectors), count)
	case len(s.coefficients) == 0:
		a.fail("attribute coefficients is missing")
	}
	return s
}

func newSVM[T kernel.Float](s svmAttrs) svm[T] {
	m := svm[T]{function: s.function, vectors: widened[T](s.vectors), coefficients: widened[T](s.coefficients), count: int(s.count)}
	if s.count > 0 {
		m.features = len(s.vectors) / m.count
	}
	if len(s.params) == 3 {
		m.gamma, m.coef0, m.degree = T(s.params[0]), T(s.params[1]), T(s.params[2])
	}
	return m
}

// kernels is the kernel function of every row of x with every vector, [rows,count].
func (m *svm[T]) kernels(c *Ctx) (k []T, rows int, err error) {
	rows, features, err := mlRows(c.In(0))
	if err != nil {
		return nil, 0, err
	}
	if features != m.features {
		return nil, 0, fmt.Errorf("input 0 has %d features, the support vectors %d", features, m.features)
	}
	x, err := floatsOf[T](c, 0)
	if err != nil {
		return nil, 0, err
	}
	t, err := c.New(tensor.TypeOf[T](), rows, m.count)
	if err != nil {
		return nil, 0, err
	}
	k = tensor.Data[T](t)
	if m.function != rbfSVM {
		alpha, start := T(1), T(0)
		if m.function != linearSVM {
			alpha, start = m.gamma, m.coef0
		}
		for i := range k {
			k[i] = start
		}
		kernel.Gemm(c.Pool, false, true, rows, m.count, features, alpha, x, features, m.vectors, features, 1, k, m.count)
	}
	c.Pool.For(rows, 1+4096/max(1, m.count*max(1, features)), func(lo, hi int) {
		for r := lo; r < hi; r++ {
			row := k[r*m.count : (r+1)*m.count]
			switch m.function {
			case rbfSVM:
				xs := x[r*features : (r+1)*features]
				for i := range row {
					var sum T
					for j, v := range m.vectors[i*features : (i+1)*features] {
						d := xs[j] - v
						sum += d * d
					}
					row[i] = T(math.Exp(-float64(m.gamma * sum)))
				}
			case polySVM:
				for i, v := range row {
					switch m.degree {
					case 2:
						row[i] = v * v
					case 3:
						row[i] = v * v * v
					default:
						row[i] = T(math.Pow(float64(v), float64(m.degree)))
					}
				}
			case sigmoidSVM:
				for i, v := range row {
					row[i] = T(math.Tanh(float64(v)))
				}
			}
		}
	})
	return k, rows, nil
}

func compileSVMRegressor(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	s := readSVM(a, a.int("n_supports", 0))
	oneClass := a.int("one_class", 0) != 0
	switch {
	case s.count < 0:
		a.fail("attribute n_supports is %d", s.count)
	case s.count > 0 && int64(len(s.coefficients)) != s.count:
		a.fail("%d coefficients for %d support vectors", len(s.coefficients), s.count)
	case len(s.rho) > 1:
		a.fail("attribute rho has %d elements, not 1", len(s.rho))
	}
	if a.err != nil {
		return nil, a.err
	}
	if s.count == 0 { // the coefficients are those of the features: a single vector under the linear kernel
		s.function, s.vectors, s.coefficients, s.count = linearSVM, s.coefficients, []float32{1}, 1
	}
	return byPrecision(svmRegressor(newSVM[float32](s), s, oneClass), svmRegressor(newSVM[float64](s), s, oneClass)), nil
}

func svmRegressor[T kernel.Float](m svm[T], s svmAttrs, oneClass bool) Kernel {
	var rho T
	if len(s.rho) > 0 {
		rho = T(s.rho[0])
	}
	return func(c *Ctx) error {
		k, rows, err := m.kernels(c)
		if err != nil {
			return err
		}
		y := make([]T, rows)
		for r := range y {
			sum := float64(rho)
			for i, v := range m.coefficients {
				sum += float64(v) * float64(k[r*m.count+i])
			}
			if y[r] = T(sum); oneClass {
				if y[r] = -1; sum > 0 {
					y[r] = 1
				}
			}
		}
		return storeScores(c, 0, y, rows, 1, s.post)
	}
}

func compileSVMClassifier(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	classes := a.labels("classlabels_strings", "classlabels_ints")
	perClass, probA, probB := a.ints("vectors_per_class"), a.floats("prob_a"), a.floats("prob_b")
	var count int64
	for _, v := range perClass {
		if v < 0 || v > math.MaxInt32 {
			return nil, fmt.Errorf("attribute vectors_per_class holds %d", v)
		}
		count += v
	}
	s := readSVM(a, count)
	if a.err != nil {
		return nil, a.err
	}
	k := classes.len()
	pairs := k * (k - 1) / 2
	if k > 1<<15 {
		return nil, fmt.Errorf("%d classes are more than is supported", k)
	}
	if len(probA) != len(probB) {
		return nil, fmt.Errorf("attributes prob_a and prob_b have %d and %d elements", len(probA), len(probB))
	}
	if count == 0 { // one row of coefficients for each class
		if len(s.coefficients)%k != 0 {
			return nil, fmt.Errorf("%d coefficients cannot be those of %d classes", len(s.coefficients), k)
		}
		if len(s.rho) != 1 && len(s.rho) != 0 && len(s.rho) != k {
			return nil, fmt.Errorf("attribute rho has %d elements for %d classes", len(s.rho), k)
		}
		return byPrecision(svmLinearClassifier[float32](s, classes), svmLinearClassifier[float64](s, classes)), nil
	}
	switch {
	case k < 2:
		return nil, fmt.Errorf("support vectors need two classes or more")
	case len(perClass) != k:
		return nil, fmt.Errorf("attribute vectors_per_class has %d elements for %d classes", len(perClass), k)
	case int64(len(s.coefficients)) != int64(k-1)*count:
		return nil, fmt.Errorf("%d coefficients, where %d support vectors and %d classes have %d", len(s.coefficients), count, k, int64(k-1)*count)
	case len(s.rho) != pairs:
		return nil, fmt.Errorf("attribute rho has %d elements, where %d classes make %d pairs", len(s.rho), k, pairs)
	case len(probA) != 0 && len(probA) != pairs:
		return nil, fmt.Errorf("attribute prob_a has %d elements, where %d classes make %d pairs", len(probA), k, pairs)
	}
	p := svmPairs{classes: classes, rho: s.rho, probA: probA, probB: probB, post: s.post, starts: make([]int, k+1)}
	for i, v := range perClass {
		p.starts[i+1] = p.starts[i] + int(v)
	}
	return byPrecision(svmPairClassifier(newSVM[float32](s), p), svmPairClassifier(newSVM[float64](s), p)), nil
}

// svmLinearClassifier scores each class by a row of coefficients.
func svmLinearClassifier[T kernel.Float](s svmAttrs, classes labels) Kernel {
	k := classes.len()
	w, bias := widened[T](s.coefficients), make([]T, k)
	for i := range bias {
		switch len(s.rho) {
		case 1:
			bias[i] = T(s.rho[0])
		case k:
			bias[i] = T(s.rho[i])
		}
	}
	return func(c *Ctx) error {
		rows, features, err := mlRows(c.In(0))
		if err != nil {
			return err
		}
		if features*k != len(w) {
			return fmt.Errorf("input 0 has %d features, the model %d", features, len(w)/k)
		}
		x, err := floatsOf[T](c, 0)
		if err != nil {
			return err
		}
		y, err := linearRows(c, x, rows, features, w, bias)
		if err != nil {
			return err
		}
		top := make([]int32, rows)
		for r := range top {
			top[r] = topClass(y[r*k : (r+1)*k])
		}
		if c.Wants(1) {
			if err := storeScores(c, 1, y, rows, k, s.post); err != nil {
				return err
			}
		}
		return classes.write(c, top)
	}
}

// svmPairs is a classifier that lets every two classes i < j compete.
type svmPairs struct {
	classes           labels
	rho, probA, probB []float32 // by pair: 01, 02, …, 12, …
	starts            []int     // first support vector of each class, and their number
	post              postTransform
}

// svmPairClassifier decides for the class that wins most pairs. The scores are those of the pairs or, if there is a calibration,
// the probabilities of the classes.
func svmPairClassifier[T kernel.Float](m svm[T], p svmPairs) Kernel {
	k := p.classes.len()
	pairs := len(p.rho)
	width := pairs
	switch {
	case len(p.probA) > 0:
		width = k
	case k == 2:
		width = 2
	}
	return func(c *Ctx) error {
		ks, rows, err := m.kernels(c)
		if err != nil {
			return err
		}
		if k == 2 && len(p.probA) == 0 && p.post == probitTransform && c.Wants(1) {
			return fmt.Errorf("post_transform PROBIT of the one score of two classes is not supported")
		}
		var z []float32
		if c.Wants(1) {
			t, err := c.Alloc(1, tensor.Float32, rows, width)
			if err != nil {
				return err
			}
			z = tensor.Data[float32](t)
		}
		top := make([]int32, rows)
		c.Pool.For(rows, 1+2048/max(1, k*m.count), func(lo, hi int) {
			scores, votes := make([]float32, pairs), make([]float32, k)
			coupling := newCoupling(k)
			for r := lo; r < hi; r++ {
				clear(votes)
				row, at := ks[r*m.count:(r+1)*m.count], 0
				for i := range k {
					for j := i + 1; j < k; j++ {
						// the coefficients of class i against j are in row j-1, those of j against i in row i
						sum := float64(p.rho[at])
						a := m.coefficients[(j-1)*m.count:]
						for v := p.starts[i]; v < p.starts[i+1]; v++ {
							sum += float64(a[v]) * float64(row[v])
						}
						a = m.coefficients[i*m.count:]
						for v := p.starts[j]; v < p.starts[j+1]; v++ {
							sum += float64(a[v]) * float64(row[v])
						}
						scores[at] = float32(sum)
						if sum > 0 {
							votes[i]++
						} else {
							votes[j]++
						}
						at++
					}
				}
				top[r] = topClass(votes)
				if z == nil {
					continue
				}
				out := z[r*width : (r+1)*width]
				switch {
				case len(p.probA) > 0:
					coupling.probabilities(out, scores, p.probA, p.probB)
					transformScores(p.post, out)
				case k == 2:
					p.post.pair(out, scores[0], p.post == noTransform)
				default:
					copy(out, scores)
					transformScores(p.post, out)
				}
			}
		})
		return p.classes.write(c, top)
	}
}

// coupling makes probabilities of classes from those of pairs: the second method of Wu, Lin and Weng,
// "Probability estimates for multi-class classification by pairwise coupling", 2004, as libsvm has it.
type coupling struct {
	k        int
	r, q     []float64 // [k,k]
	p, qp    []float64
	epsilon  float64
	maxSteps int
}

func newCoupling(k int) *coupling {
	return &coupling{k: k, r: make([]float64, k*k), q: make([]float64, k*k), p: make([]float64, k), qp: make([]float64, k),
		epsilon: 0.005 / float64(k), maxSteps: 100}
}

func (w *coupling) probabilities(dst, scores, a, b []float32) {
	k, at := w.k, 0
	for i := range k {
		for j := i + 1; j < k; j++ {
			v := 1 / (1 + math.Exp(float64(scores[at]*a[at]+b[at])))
			v = min(max(v, 1e-7), 1-1e-7)
			w.r[i*k+j], w.r[j*k+i] = v, 1-v
			at++
		}
	}
	for i := range k {
		w.p[i] = 1 / float64(k)
		w.q[i*k+i] = 0
		for j := range k {
			if j != i {
				w.q[i*k+i] += w.r[j*k+i] * w.r[j*k+i]
				w.q[i*k+j] = -w.r[j*k+i] * w.r[i*k+j]
			}
		}
	}
	for range w.maxSteps {
		pqp := 0.0
		for i := range k {
			w.qp[i] = 0
			for j := range k {
				w.qp[i] += w.q[i*k+j] * w.p[j]
			}
			pqp += w.p[i] * w.qp[i]
		}
		worst := 0.0
		for i := range k {
			worst = max(worst, math.Abs(w.qp[i]-pqp))
		}
		if worst < w.epsilon {
			break
		}
		for i := range k {
			d := (pqp - w.qp[i]) / w.q[i*k+i]
			w.p[i] += d
			pqp = (pqp + d*(d*w.q[i*k+i]+2*w.qp[i])) / (1 + d) / (1 + d)
			for j := range k {
				w.qp[j] = (w.qp[j] + d*w.q[i*k+j]) / (1 + d)
				w.p[j] /= 1 + d
			}
		}
	}
	for i, v := range w.p {
		dst[i] = float32(v)
	}
}
