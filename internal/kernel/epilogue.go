package kernel

// Activation names the function that ends an [Epilogue].
type Activation int

// The activations. Parameters a and b are the epilogue's ActAlpha and ActBeta.
const (
	ActNone        Activation = iota
	ActRelu                   // max(x, 0)
	ActLeakyRelu              // x, or a·x below 0
	ActClip                   // min(max(x, a), b)
	ActSigmoid                // [Sigmoid]
	ActTanh                   // [Tanh]
	ActGeluErf                // [GeluErf]
	ActGeluTanh               // [GeluTanh]
	ActSilu                   // [Silu]
	ActHardSwish              // [HardSwish]
	ActHardSigmoid            // min(max(a·x+b, 0), 1)
	ActSoftplus               // [Softplus]
	ActErf                    // [Erf]
	ActExp                    // [Exp]
	ActSqrt                   // [Sqrt]
	ActAbs                    // [Abs]
)

// activationOps maps the activations without parameters to their functions.
var activationOps = [...]unaryOp{
	ActRelu:      opRelu,
	ActSigmoid:   opSigmoid,
	ActTanh:      opTanh,
	ActGeluErf:   opGeluErf,
	ActGeluTanh:  opGeluTanh,
	ActSilu:      opSilu,
	ActHardSwish: opHardSwish,
	ActSoftplus:  opSoftplus,
	ActErf:       opErf,
	ActExp:       opExp,
	ActSqrt:      opSqrt,
	ActAbs:       opAbs,
}

// EpilogueOf is what is done to a product C, m×n, before it leaves the cache:
//
//	C[i,j] = Act(C[i,j] + RowBias[i] + ColBias[j] + Residual[i·ResidualLD+j])
//
// A nil slice is left out, and so is all of it for a nil epilogue.
type EpilogueOf[T Float] struct {
	RowBias           []T // length m
	ColBias           []T // length n
	Residual          []T // m×n with row stride ResidualLD
	ResidualLD        int
	Act               Activation
	ActAlpha, ActBeta T
}

// Epilogue is that of [Sgemm].
type Epilogue = EpilogueOf[float32]

// check panics if a slice is too short for an m×n product.
func (ep *EpilogueOf[T]) check(m, n int) {
	if ep == nil || m == 0 || n == 0 {
		return
	}
	if ep.RowBias != nil && len(ep.RowBias) < m {
		panic("kernel: epilogue: RowBias is shorter than the rows of C")
	}
	if ep.ColBias != nil && len(ep.ColBias) < n {
		panic("kernel: epilogue: ColBias is shorter than the columns of C")
	}
	if ep.Residual != nil {
		checkMatrix("epilogue: Residual", m, n, ep.Residual, ep.ResidualLD)
	}
}

// row applies the epilogue to c, which holds columns [j, j+len(c)) of row i.
func (ep *EpilogueOf[T]) row(c []T, i, j int) {
	if ep == nil {
		return
	}
	if ep.RowBias != nil {
		AddScalar(c, c, ep.RowBias[i])
	}
	if ep.ColBias != nil {
		Add(c, c, ep.ColBias[j:j+len(c)])
	}
	if ep.Residual != nil {
		Add(c, c, ep.Residual[i*ep.ResidualLD+j:][:len(c)])
	}
	ep.activate(c)
}

// activate applies the activation alone.
func (ep *EpilogueOf[T]) activate(c []T) {
	switch ep.Act {
	case ActNone:
	case ActLeakyRelu:
		LeakyRelu(c, c, ep.ActAlpha)
	case ActClip:
		Clip(c, c, ep.ActAlpha, ep.ActBeta)
	case ActHardSigmoid:
		HardSigmoid(c, c, ep.ActAlpha, ep.ActBeta)
	default:
		unary(activationOps[ep.Act], c, c)
	}
}
