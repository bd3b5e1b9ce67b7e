package kernel

import (
	"fmt"
	"sync"
)

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
	return outSize(cv.H, cv.PadTop+cv.PadBottom, cv.KH, cv.DilH, cv.StrideH), outSize(cv.W, cv.PadLeft+cv.PadRight, cv.KW, cv.DilW, cv.StrideW)
}

// outSize is the number of places where a kernel fits in one dimension.
func outSize(in, pad, kernel, dil, stride int) int {
	room := in + pad - (kernel-1)*dil - 1
	if room < 0 {
		return 0
	}
	return room/stride + 1
}

// PackedConv is the weights of a convolution laid out for the kernels once. It
// holds for any N, H, W and padding of the same convolution, and may be used by
// many goroutines at once. The weights must stay as they are.
type PackedConv[T Float] struct {
	depthwise []T                    // M×KH×KW, or nil
	panels    func() []*PackedAOf[T] // by group, (M/Group)×(C/Group·KH·KW) each, made when they are first needed
	constant  bool                   // whether to spend time once for less in each run
	plain     []T                    // the weights as they came
	tiled     winogradWeights        // made when they are first needed
}

// PackConvWeights packs w, M×(C/Group)×KH×KW. constant says that many convolutions will use them: then those of 3×3 that gain by it are
// computed by Winograd's method, for which w is transformed.
func PackConvWeights[T Float](cv Conv2D, w []T, constant bool) *PackedConv[T] {
	cv = cv.norm()
	rows, k := cv.M/cv.Group, cv.C/cv.Group*cv.KH*cv.KW
	if len(w) < cv.M*k {
		panic("kernel: PackConvWeights: w is too short")
	}
	if cv.depthwise() {
		return &PackedConv[T]{depthwise: append([]T(nil), w[:cv.M*k]...)}
	}
	pc := &PackedConv[T]{plain: w[:cv.M*k], constant: constant}
	pc.panels = sync.OnceValue(func() []*PackedAOf[T] {
		groups := make([]*PackedAOf[T], cv.Group)
		for g := range groups {
			groups[g] = PackA(false, rows, k, w[g*rows*k:], k)
		}
		return groups
	})
	return pc
}

// depthwise reports whether each channel of Y depends on one of X, and the row of the matrix is
// too short for a product to be worth it.
func (cv Conv2D) depthwise() bool { return cv.C == cv.Group && cv.M/cv.Group <= 2 && cv.KH*cv.KW > 0 }

// pointwise reports whether the image is its own column matrix.
func (cv Conv2D) pointwise() bool {
	return cv.KH == 1 && cv.KW == 1 && cv.StrideH == 1 && cv.StrideW == 1 && cv.PadTop|cv.PadLeft|cv.PadBottom|cv.PadRight == 0
}

// Conv computes Y and applies ep, whose RowBias has length M, whose Residual has
// the shape of Y (ResidualLD is not used), and whose ColBias must be nil.
func Conv[T Float](p *Pool, cv Conv2D, y, x []T, w *PackedConv[T], ep *EpilogueOf[T]) {
	cv = cv.norm()
	oh, ow := cv.OutSize()
	pix := oh * ow
	if len(x) < cv.N*cv.C*cv.H*cv.W || len(y) < cv.N*cv.M*pix {
		panic("kernel: Conv: operand too short")
	}
	if ep != nil && (ep.ColBias != nil || ep.RowBias != nil && len(ep.RowBias) < cv.M || ep.Residual != nil && len(ep.Residual) < cv.N*cv.M*pix) {
		panic("kernel: Conv: epilogue does not fit Y")
	}
	if cv.N*cv.M*pix == 0 {
		return
	}
	if w.depthwise != nil {
		convDepthwise(p, cv, y, x, w.depthwise, ep)
		return
	}
	if cv.smallImages() {
		convSmall(p, cv, y, x, w, ep)
		return
	}
	if cv.N >= 2*p.Threads() && p.Threads() > 1 {
		p.For(cv.N, 1, func(lo, hi int) {
			for n := lo; n < hi; n++ {
				convImage(nil, cv, n, y, x, w, ep)
			}
		})
		return
	}
	for n := range cv.N {
		convImage(p, cv, n, y, x, w, ep)
	}
}

// convImage computes image n of Y.
func convImage[T Float](p *Pool, cv Conv2D, n int, y, x []T, w *PackedConv[T], ep *EpilogueOf[T]) {
	if w.constant && is32[T]() && active == levelGo && cv.winograd() { // elsewhere images in blocks have their own
		w.tiled.once.Do(func() { w.tiled.transform(cv.M, cv.C, f32(w.plain)) })
		ep32, _ := any(ep).(*Epilogue)
		convWinograd(p, cv, f32(y), f32(x), &w.tiled, ep32, n)
		return
	}
	oh, ow := cv.OutSize()
	rows, pix, chans := cv.M/cv.Group, oh*ow, cv.C/cv.Group
	image := x[n*cv.C*cv.H*cv.W:][:cv.C*cv.H*cv.W]
	if cv.pointwise() && pix <= narrowest { // a squeezed image: dot products with the weights as they lie
		for g := range cv.Group {
			off := (n*cv.M + g*rows) * pix
			GemmEpilogue(p, false, false, rows, pix, chans, 1, w.plain[g*rows*chans:], chans, image[g*chans*pix:], pix, 0, y[off:], pix, ep.part(g*rows, off, pix))
		}
		return
	}
	groups := w.panels()
	var im *im2colSource[T]
	if !cv.pointwise() {
		im = newIm2col(p, cv, image, groups[0].kern.cols, 1)
		defer im.recycle()
	}
	for g, pa := range groups {
		off := (n*cv.M + g*rows) * pix
		pr := newProduct(pa.kern, rows, pix, pa.k, 1, 0, y[off:], pix, ep.part(g*rows, off, pix))
		pr.packedA = pa.panels
		if im == nil {
			pr.b = sideB(false, image[g*chans*pix:], pix)
		} else {
			im.group = g
			pr.panelsB = im
		}
		pr.run(p)
	}
}

// part is the epilogue of the rows of Y that begin at row, with off elements of Y before them.
func (ep *EpilogueOf[T]) part(row, off, ld int) *EpilogueOf[T] {
	if ep == nil || row == 0 && off == 0 && ep.Residual == nil {
		return ep
	}
	sub := *ep
	if sub.RowBias != nil {
		sub.RowBias = sub.RowBias[row:]
	}
	if sub.Residual != nil {
		sub.Residual, sub.ResidualLD = sub.Residual[off:], ld
	}
	return &sub
}
