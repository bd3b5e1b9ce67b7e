package ops

import (
	"fmt"

	"github.com/retune-go/retune/internal/kernel"
)

// Operators that passes put in place of several: Conv and Linear of the [Internal] domain end in an epilogue, which adds
// a bias and a residual and applies an activation while the product is still in the cache. Their attribute
// "activation" names the operator applied last, and "alpha" and "beta" its parameters.

// activations are the operators without further inputs that an epilogue may end in.
var activations = map[string]kernel.Activation{
	"": kernel.ActNone, "Relu": kernel.ActRelu, "LeakyRelu": kernel.ActLeakyRelu, "Clip": kernel.ActClip, "Sigmoid": kernel.ActSigmoid,
	"Tanh": kernel.ActTanh, "Gelu": kernel.ActGeluErf, "GeluTanh": kernel.ActGeluTanh, "Swish": kernel.ActSilu, "HardSwish": kernel.ActHardSwish,
	"HardSigmoid": kernel.ActHardSigmoid, "Softplus": kernel.ActSoftplus, "Erf": kernel.ActErf, "Exp": kernel.ActExp, "Sqrt": kernel.ActSqrt,
	"Abs": kernel.ActAbs,
}

// ending is the activation of n's epilogue; the zero value is none.
type ending struct {
	act         kernel.Activation
	alpha, beta float64
}

func endingOf(n *Node) (ending, error) {
	if n.Domain != Internal {
		return ending{}, nil
	}
	name := n.Str("activation", "")
	act, ok := activations[name]
	if !ok {
		return ending{}, fmt.Errorf("activation %q is not known", name)
	}
	return ending{act, float64(n.Float("alpha", 0)), float64(n.Float("beta", 0))}, nil
}

// epilogue is the kernel's form for this run of c, nil if there is nothing to do.
func epilogue[T kernel.Float](c *Ctx, e ending, rowBias, colBias, residual []T, ld int) *kernel.EpilogueOf[T] {
	if e.act == kernel.ActNone && rowBias == nil && colBias == nil && residual == nil {
		return nil
	}
	ep := Scratch[kernel.EpilogueOf[T]](c)
	*ep = kernel.EpilogueOf[T]{RowBias: rowBias, ColBias: colBias, Residual: residual, ResidualLD: ld, Act: e.act, ActAlpha: T(e.alpha), ActBeta: T(e.beta)}
	return ep
}
