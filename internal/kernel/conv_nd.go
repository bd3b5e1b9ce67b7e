package kernel

import "fmt"

// ConvND is the shape of a convolution over any number of spatial dimensions, as
// [Conv2D] is over two: X is N×C×In…, W is M×(C/Group)×Kernel…, Y is N×M×[ConvND.OutSize]…
// All lists have one entry for each dimension; Stride, PadBegin, PadEnd and Dil may be
// nil for 1, 0, 0 and 1. Group may be 0 for 1.
//
// Shapes of one or two dimensions are computed as Conv2D; others by way of the column
// matrix.
type ConvND struct {
	N, C, M, Group   int
	In, Kernel       []int
	Stride, Dil      []int
	PadBegin, PadEnd []int
}

func (cv ConvND) norm() ConvND {
	fill := func(list *[]int, v int) {
		if *list == nil {
			*list = make([]int, len(cv.In))
			for i := range *list {
				(*list)[i] = v
			}
		}
	}
	fill(&cv.Stride, 1)
	fill(&cv.Dil, 1)
	fill(&cv.PadBegin, 0)
	fill(&cv.PadEnd, 0)
	if cv.Group == 0 {
		cv.Group = 1
	}
	for _, list := range [][]int{cv.Kernel, cv.Stride, cv.Dil, cv.PadBegin, cv.PadEnd} {
		if len(list) != len(cv.In) || len(cv.In) == 0 {
			panic(fmt.Sprintf("kernel: not a convolution: %+v", cv))
		}
	}
	if cv.C%cv.Group != 0 || cv.M%cv.Group != 0 {
		panic(fmt.Sprintf("kernel: not a convolution: %+v", cv))
	}
	return cv
}

// OutSize returns the spatial dimensions of Y.
func (cv ConvND) OutSize() []int {
	cv = cv.norm()
	out := make([]int, len(cv.In))
	for i, in := range cv.In {
		out[i] = outSize(in, cv.PadBegin[i]+cv.PadEnd[i], cv.Kernel[i], cv.Dil[i], cv.Stride[i])
	}
	return out
}

// flat returns cv as a convolution of two dimensions, if it has no more.
func (cv ConvND) flat() (Conv2D, bool) {
	if len(cv.In) > 2 {
		return Conv2D{}, false
	}
	w := len(cv.In) - 1
	flat := Conv2D{N: cv.N, C: cv.C, M: cv.M, Group: cv.Group, H: 1, KH: 1, StrideH: 1, DilH: 1,
		W: cv.In[w], KW: cv.Kernel[w], StrideW: cv.Stride[w], DilW: cv.Dil[w], PadLeft: cv.PadBegin[w], PadRight: cv.PadEnd[w]}
	if w == 1 {
		flat.H, flat.KH, flat.StrideH, flat.DilH = cv.In[0], cv.Kernel[0], cv.Stride[0], cv.Dil[0]
		flat.PadTop, flat.PadBottom = cv.PadBegin[0], cv.PadEnd[0]
	}
	return flat, true
}

func volume(dims []int) int {
	v := 1
	for _, d := range dims {
		v *= d
	}
	return v
}

// sizes of the matrices of a group: rows×k weights, k×pix columns.
func (cv ConvND) sizes() (rows, k, pix, image int) {
	return cv.M / cv.Group, cv.C / cv.Group * volume(cv.Kernel), volume(cv.OutSize()), cv.C * volume(cv.In)
}

func (cv ConvND) check(name string, x, w, y int) {
	rows, k, pix, image := cv.sizes()
	if x < cv.N*image || w < rows*cv.Group*k || y < cv.N*cv.M*pix {
		panic("kernel: " + name + ": operand too short")
	}
}

// ConvolveND computes Y and applies ep as [Conv] does.
func ConvolveND[T Float](p *Pool, cv ConvND, y, x, w []T, ep *EpilogueOf[T]) {
	cv = cv.norm()
	if flat, ok := cv.flat(); ok {
		Conv(p, flat, y, x, PackConvWeights(flat, w), ep)
		return
	}
	cv.check("ConvolveND", len(x), len(w), len(y))
	rows, k, pix, image := cv.sizes()
	if cv.N*cv.M*pix == 0 {
		return
	}
	cols := make([]T, k*pix)
	for n := range cv.N {
		for g := range cv.Group {
			columns(cv, cols, x[n*image:], g)
			off := (n*cv.M + g*rows) * pix
			GemmEpilogue(p, false, false, rows, pix, k, 1, w[g*rows*k:], k, cols, pix, 0, y[off:], pix, ep.part(g*rows, off, pix))
		}
	}
}

// ConvNDGradInput computes dX as [ConvGradInput] does.
func ConvNDGradInput[T Float](p *Pool, cv ConvND, dx, dy, w []T) {
	cv = cv.norm()
	if flat, ok := cv.flat(); ok {
		ConvGradInput(p, flat, dx, dy, w)
		return
	}
	cv.check("ConvNDGradInput", len(dx), len(w), len(dy))
	rows, k, pix, image := cv.sizes()
	clear(dx[:cv.N*image])
	if cv.N*cv.M*k*pix == 0 {
		return
	}
	cols := make([]T, k*pix)
	for n := range cv.N {
		for g := range cv.Group {
			Gemm(p, true, false, k, pix, rows, 1, w[g*rows*k:], k, dy[(n*cv.M+g*rows)*pix:], pix, 0, cols, pix)
			addColumns(cv, dx[n*image:], cols, g)
		}
	}
}

// ConvNDGradWeight computes dW as [ConvGradWeight] does.
func ConvNDGradWeight[T Float](p *Pool, cv ConvND, dw, dy, x []T, accumulate bool) {
	cv = cv.norm()
	if flat, ok := cv.flat(); ok {
		ConvGradWeight(p, flat, dw, dy, x, accumulate)
		return
	}
	cv.check("ConvNDGradWeight", len(x), len(dw), len(dy))
	rows, k, pix, image := cv.sizes()
	if !accumulate {
		clear(dw[:cv.M*k])
	}
	if cv.N*cv.M*k*pix == 0 {
		return
	}
	cols := make([]T, k*pix)
	for n := range cv.N {
		for g := range cv.Group {
			columns(cv, cols, x[n*image:], g)
			Gemm(p, false, true, rows, k, pix, 1, dy[(n*cv.M+g*rows)*pix:], pix, cols, pix, 1, dw[g*rows*k:], k)
		}
	}
}

// columns writes the column matrix of group g of one image.
func columns[T Float](cv ConvND, cols, x []T, g int) {
	clear(cols)
	cv.runs(g, func(col, at, n int) {
		for i := range cols[col : col+n] {
			cols[col+i] = x[at+i*cv.Stride[len(cv.Stride)-1]]
		}
	})
}

// addColumns adds it back to the image.
func addColumns[T Float](cv ConvND, x, cols []T, g int) {
	cv.runs(g, func(col, at, n int) {
		for i, v := range cols[col : col+n] {
			x[at+i*cv.Stride[len(cv.Stride)-1]] += v
		}
	})
}

// runs calls f for each run of the column matrix of group g along the last dimension: its elements
// [col, col+n) come from the image's element at and each Stride-th after it.
func (cv ConvND) runs(g int, f func(col, at, n int)) {
	out, last := cv.OutSize(), len(cv.In)-1
	plane, ow, chans := volume(cv.In), out[last], cv.C/cv.Group
	tap, pos := make([]int, last+1), make([]int, last+1)
	col := 0
	for c := range chans {
		for first := true; first || next(tap, cv.Kernel); first = false {
			// q·stride + left lies inside for q in [lo, hi).
			left := tap[last]*cv.Dil[last] - cv.PadBegin[last]
			lo := ceilDiv(max(0, -left), cv.Stride[last])
			hi := min(ow, ceilDiv(max(0, cv.In[last]-left), cv.Stride[last]))
			for first := true; first || next(pos[:last], out[:last]); first = false {
				at, inside := 0, lo < hi
				for d := range last {
					i := pos[d]*cv.Stride[d] + tap[d]*cv.Dil[d] - cv.PadBegin[d]
					inside = inside && i >= 0 && i < cv.In[d]
					at = (at + i) * cv.In[d+1]
				}
				if inside {
					f(col+lo, (g*chans+c)*plane+at+lo*cv.Stride[last]+left, hi-lo)
				}
				col += ow
			}
		}
	}
}

// next steps an index through dims, the last fastest; at the end it is back at zero and next
// reports false.
func next(index, dims []int) bool {
	for d := len(index) - 1; d >= 0; d-- {
		if index[d]++; index[d] < dims[d] {
			return true
		}
		index[d] = 0
	}
	return false
}
