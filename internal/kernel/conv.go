package kernel

import "fmt"

// Conv2D is the shape of a two-dimensional convolution, NCHW:
//
//	Y[n,m,oh,ow] = Σ_{c,kh,kw} X[n, g·C/Group+c, oh·StrideH+kh·DilH-PadTop, ow·StrideW+kw·DilW-PadLeft] · W[m,c,kh,kw]
//
// with X zero outside, X of N×C×H×W, W of M×(C/Group)×KH×KW, Y of N×M×OH×OW and
// g = m/(M/Group). One-dimensional convolutions have H = KH = 1. Strides, dilations
// and Group may be left 0 for 1.
type Conv2D struct {
	N, C, H, W                           int
	M, KH, KW                            int
	StrideH, StrideW                     int
	PadTop, PadLeft, PadBottom, PadRight int
	DilH, DilW                           int
	Group                                int
}

// norm returns cv with zeros replaced by defaults, and panics if it is not a
// convolution.
func (cv Conv2D) norm() Conv2D {
	for _, v := range []*int{&cv.StrideH, &cv.StrideW, &cv.DilH, &cv.DilW, &cv.Group} {
		if *v == 0 {
			*v = 1
		}
	}
	if cv.C%cv.Group != 0 || cv.M%cv.Group != 0 || min(cv.N, cv.C, cv.H, cv.W, cv.M, cv.KH, cv.KW) < 0 {
		panic(fmt.Sprintf("kernel: not a convolution: %+v", cv))
	}
	return cv
}

// OutSize returns the height and width of Y.
func (cv Conv2D) OutSize() (oh, ow int) {
	cv = cv.norm()
	span := func(in, pad, kernel, dil, stride int) int {
		room := in + pad - (kernel-1)*dil - 1
		if room < 0 {
			return 0
		}
		return room/stride + 1
	}
	return span(cv.H, cv.PadTop+cv.PadBottom, cv.KH, cv.DilH, cv.StrideH), span(cv.W, cv.PadLeft+cv.PadRight, cv.KW, cv.DilW, cv.StrideW)
}

// PackedConv is the weights of a convolution laid out for the kernels once. It
// holds for any N, H, W and padding of the same convolution.
type PackedConv[T Float] struct {
	w []T
}

// PackConvWeights packs w, M×(C/Group)×KH×KW.
func PackConvWeights[T Float](cv Conv2D, w []T) *PackedConv[T] {
	cv = cv.norm()
	if len(w) < cv.M*cv.C/cv.Group*cv.KH*cv.KW {
		panic("kernel: PackConvWeights: w is too short")
	}
	return &PackedConv[T]{append([]T(nil), w...)}
}

// Conv computes Y and applies ep, whose RowBias has length M, whose Residual has
// the shape of Y (ResidualLD is not used), and whose ColBias must be nil.
func Conv[T Float](p *Pool, cv Conv2D, y, x []T, w *PackedConv[T], ep *EpilogueOf[T]) {
	cv = cv.norm()
	oh, ow := cv.OutSize()
	rows, pix, k := cv.M/cv.Group, oh*ow, cv.C/cv.Group*cv.KH*cv.KW
	cols := make([]T, k*pix)
	for n := range cv.N {
		for g := range cv.Group {
			im2col(cv, cols, x[n*cv.C*cv.H*cv.W:], g)
			off := (n*cv.M + g*rows) * pix
			var e *EpilogueOf[T]
			if ep != nil {
				sub := *ep
				if sub.RowBias != nil {
					sub.RowBias = sub.RowBias[g*rows:]
				}
				if sub.Residual != nil {
					sub.Residual, sub.ResidualLD = sub.Residual[off:], pix
				}
				e = &sub
			}
			GemmEpilogue(p, false, false, rows, pix, k, 1, w.w[g*rows*k:], k, cols, pix, 0, y[off:], pix, e)
		}
	}
}

// ConvGradInput computes dX from dY and the weights, M×(C/Group)×KH×KW. dX is
// overwritten.
func ConvGradInput[T Float](p *Pool, cv Conv2D, dx, dy, w []T) {
	cv = cv.norm()
	oh, ow := cv.OutSize()
	rows, pix, k := cv.M/cv.Group, oh*ow, cv.C/cv.Group*cv.KH*cv.KW
	cols := make([]T, k*pix)
	clear(dx[:cv.N*cv.C*cv.H*cv.W])
	for n := range cv.N {
		for g := range cv.Group {
			Gemm(p, true, false, k, pix, rows, 1, w[g*rows*k:], k, dy[(n*cv.M+g*rows)*pix:], pix, 0, cols, pix)
			col2im(cv, dx[n*cv.C*cv.H*cv.W:], cols, g)
		}
	}
}

// ConvGradWeight adds to dW, M×(C/Group)×KH×KW, its gradient from dY and X if accumulate
// is set, and sets it otherwise.
func ConvGradWeight[T Float](p *Pool, cv Conv2D, dw, dy, x []T, accumulate bool) {
	cv = cv.norm()
	oh, ow := cv.OutSize()
	rows, pix, k := cv.M/cv.Group, oh*ow, cv.C/cv.Group*cv.KH*cv.KW
	cols := make([]T, k*pix)
	for g := range cv.Group {
		beta := T(0)
		if accumulate {
			beta = 1
		}
		for n := range cv.N {
			im2col(cv, cols, x[n*cv.C*cv.H*cv.W:], g)
			Gemm(p, false, true, rows, k, pix, 1, dy[(n*cv.M+g*rows)*pix:], pix, cols, pix, beta, dw[g*rows*k:], k)
			beta = 1
		}
	}
}

// taps calls f for each run of output positions of each row of the column matrix
// of group g: positions [col, col+n) of row k come from x[at], x[at+StrideW]...
func (cv Conv2D) taps(g int, f func(k, col, at, n int)) {
	oh, ow := cv.OutSize()
	chans := cv.C / cv.Group
	k := 0
	for c := range chans {
		plane := (g*chans + c) * cv.H * cv.W
		for kh := range cv.KH {
			for kw := range cv.KW {
				// ow·StrideW + left lies in [0, W) for ow in [lo, hi).
				left := kw*cv.DilW - cv.PadLeft
				lo := max(0, (-left+cv.StrideW-1)/cv.StrideW)
				hi := min(ow, (cv.W-left+cv.StrideW-1)/cv.StrideW)
				for r := range oh {
					h := r*cv.StrideH + kh*cv.DilH - cv.PadTop
					if h >= 0 && h < cv.H && lo < hi {
						f(k, r*ow+lo, plane+h*cv.W+lo*cv.StrideW+left, hi-lo)
					}
				}
				k++
			}
		}
	}
}

// im2col writes the columns of group g of one image.
func im2col[T Float](cv Conv2D, cols, x []T, g int) {
	oh, ow := cv.OutSize()
	clear(cols)
	cv.taps(g, func(k, col, at, n int) {
		dst := cols[k*oh*ow+col:][:n]
		for i := range dst {
			dst[i] = x[at+i*cv.StrideW]
		}
	})
}

// col2im adds the columns of group g back to one image.
func col2im[T Float](cv Conv2D, x, cols []T, g int) {
	oh, ow := cv.OutSize()
	cv.taps(g, func(k, col, at, n int) {
		for i, v := range cols[k*oh*ow+col:][:n] {
			x[at+i*cv.StrideW] += v
		}
	})
}
