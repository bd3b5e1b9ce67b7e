package kernel

// ConvGradInput computes dX from dY and the weights, M×(C/Group)×KH×KW. dX is
// overwritten.
func ConvGradInput[T Float](p *Pool, cv Conv2D, dx, dy, w []T) {
	cv = cv.norm()
	oh, ow := cv.OutSize()
	rows, pix, chans := cv.M/cv.Group, oh*ow, cv.C/cv.Group
	k := chans * cv.KH * cv.KW
	if len(dx) < cv.N*cv.C*cv.H*cv.W || len(dy) < cv.N*cv.M*pix || len(w) < cv.M*k {
		panic("kernel: ConvGradInput: operand too short")
	}
	image := cv.C * cv.H * cv.W
	switch {
	case image == 0:
		return
	case cv.M*pix*k == 0:
		clear(dx[:cv.N*image])
		return
	case cv.smallImages():
		gradInputSmall(p, cv, dx, dy, w)
		return
	// Turning the weights round takes M·k copies and saves adding up pix·k columns.
	case cv.StrideH == 1 && cv.StrideW == 1 && !cv.pointwise() && cv.M <= cv.N*pix*cv.Group:
		s := getAside[T]()
		defer s.recycle()
		s.x = grow(s.x, cv.M*k)
		reverseWeights(p, cv, s.x, w)
		back := cv.reversed()
		Conv(p, back, dx, dy, PackConvWeights(back, s.x, false), nil)
		return
	case cv.depthwise():
		depthwiseGradInput(p, cv, dx, dy, w)
		return
	}
	var cols []T
	if !cv.pointwise() {
		clear(dx[:cv.N*image])
		cols = make([]T, k*pix)
	}
	for g := range cv.Group {
		turned := PackA(true, k, rows, w[g*rows*k:], k)
		for n := range cv.N {
			dyg, dxg := dy[(n*cv.M+g*rows)*pix:], dx[n*image+g*chans*cv.H*cv.W:]
			if cols == nil {
				GemmPackedA(p, false, pix, 1, turned, dyg, pix, 0, dxg, pix, nil)
				continue
			}
			GemmPackedA(p, false, pix, 1, turned, dyg, pix, 0, cols, pix, nil)
			taps := cv.KH * cv.KW * pix
			p.For(chans, max(1, serialWork/max(1, taps)), func(lo, hi int) {
				for c := lo; c < hi; c++ {
					col2im(cv, dxg[c*cv.H*cv.W:], cols[c*taps:], pix, 1)
				}
			})
		}
	}
}

// reversed is the convolution that takes dY to dX, for strides of 1.
func (cv Conv2D) reversed() Conv2D {
	oh, ow := cv.OutSize()
	back := cv
	back.C, back.M, back.H, back.W = cv.M, cv.C, oh, ow
	back.PadTop = (cv.KH-1)*cv.DilH - cv.PadTop
	back.PadLeft = (cv.KW-1)*cv.DilW - cv.PadLeft
	back.PadBottom = cv.H - oh + cv.PadTop
	back.PadRight = cv.W - ow + cv.PadLeft
	return back
}

// reverseWeights sets out to w with the channels of each group swapped and the taps turned round.
func reverseWeights[T Float](p *Pool, cv Conv2D, out, w []T) {
	rows, chans, taps := cv.M/cv.Group, cv.C/cv.Group, cv.KH*cv.KW
	p.For(cv.M, max(1, serialWork/8/(chans*taps)), func(lo, hi int) {
		for m := lo; m < hi; m++ {
			g, r := m/rows, m%rows
			for c := range chans {
				dst := out[((g*chans+c)*rows+r)*taps:][:taps]
				for t, v := range w[(m*chans+c)*taps:][:taps] {
					dst[taps-1-t] = v
				}
			}
		}
	})
}

// col2im adds the columns of one channel, rows of which are ld apart, back to its plane of pixels of unit elements.
func col2im[T Float](cv Conv2D, plane, cols []T, ld, unit int) {
	oh, ow := cv.OutSize()
	for kh := range cv.KH {
		for kw := range cv.KW {
			// q·StrideW + left lies in [0, W) for q in [lo, hi).
			left := kw*cv.DilW - cv.PadLeft
			lo := ceilDiv(max(0, -left), cv.StrideW)
			hi := min(ow, ceilDiv(max(0, cv.W-left), cv.StrideW))
			for r := range oh {
				h := r*cv.StrideH + kh*cv.DilH - cv.PadTop
				if h < 0 || h >= cv.H || lo >= hi {
					continue
				}
				row, src := plane[h*cv.W*unit:][:cv.W*unit], cols[r*ow*unit:][lo*unit:hi*unit]
				at := (lo*cv.StrideW + left) * unit
				switch {
				case cv.StrideW == 1:
					row = row[at:][:len(src)]
					Add(row, row, src)
				case unit == 1:
					for _, v := range src {
						row[at] += v
						at += cv.StrideW
					}
				default:
					for i := 0; i < len(src); i += unit {
						part := row[at:][:unit]
						Add(part, part, src[i:i+unit])
						at += cv.StrideW * unit
					}
				}
			}
			cols = cols[min(ld, len(cols)):]
		}
	}
}

// depthwiseGradInput adds up shifted rows of dY in a frame.
func depthwiseGradInput[T Float](p *Pool, cv Conv2D, dx, dy, w []T) {
	oh, ow := cv.OutSize()
	f, ntaps, rows := cv.frame(), cv.KH*cv.KW, cv.M/cv.Group
	p.For(cv.N*cv.C, cv.depthwiseGrain(), func(lo, hi int) {
		s := newPlaneScratch[T](cv)
		defer s.recycle()
		for q := lo; q < hi; q++ {
			clear(s.frame)
			n, c := q/cv.C, q%cv.C
			for m := c * rows; m < (c+1)*rows; m++ {
				for r := range oh {
					src := dy[((n*cv.M+m)*oh+r)*ow:][:ow]
					for t, off := range s.offsets {
						Axpy(s.frame[r*cv.StrideH*f.row+int(off):][:ow], w[m*ntaps+t], src)
					}
				}
			}
			readFrame(cv, f, dx[q*cv.H*cv.W:][:cv.H*cv.W], s.frame)
		}
	})
}

// ConvGradWeight adds to dW, M×(C/Group)×KH×KW, its gradient from dY and X if accumulate
// is set, and sets it otherwise.
func ConvGradWeight[T Float](p *Pool, cv Conv2D, dw, dy, x []T, accumulate bool) {
	cv = cv.norm()
	oh, ow := cv.OutSize()
	rows, pix, chans := cv.M/cv.Group, oh*ow, cv.C/cv.Group
	k := chans * cv.KH * cv.KW
	image := cv.C * cv.H * cv.W
	if len(x) < cv.N*image || len(dy) < cv.N*cv.M*pix || len(dw) < cv.M*k {
		panic("kernel: ConvGradWeight: operand too short")
	}
	beta := T(0)
	if accumulate {
		beta = 1
	}
	nothing := cv.N*cv.M*pix*k == 0
	if beta == 0 && (nothing || cv.depthwise()) {
		clear(dw[:cv.M*k])
	}
	switch {
	case nothing:
		return
	case cv.depthwise():
		depthwiseGradWeight(p, cv, dw, dy, x)
		return
	case cv.smallImages():
		gradWeightSmall(p, cv, dw, dy, x, beta)
		return
	}
	kern := activeGemm[T]()
	for n := range cv.N {
		var im *im2colSource[T]
		if !cv.pointwise() {
			im = newIm2col(p, cv, x[n*image:][:image], kern.cols, 1)
		}
		for g := range cv.Group {
			dyg, dwg := dy[(n*cv.M+g*rows)*pix:], dw[g*rows*k:]
			if im == nil {
				Gemm(p, false, true, rows, k, pix, 1, dyg, pix, x[n*image+g*chans*pix:], pix, beta, dwg, k)
				continue
			}
			im.group = g
			pr := newProduct(kern, rows, k, pix, 1, beta, dwg, k, nil)
			pr.a, pr.panelsB = sideA(false, dyg, pix), im2rowSource[T]{im, kern}
			pr.run(p)
		}
		if im != nil {
			im.recycle()
		}
		beta = 1
	}
}

// depthwiseGradWeight multiplies planes of dY with the column matrices of single channels. A
// channel's weights are one worker's.
func depthwiseGradWeight[T Float](p *Pool, cv Conv2D, dw, dy, x []T) {
	oh, ow := cv.OutSize()
	pix, f, ntaps, rows := oh*ow, cv.frame(), cv.KH*cv.KW, cv.M/cv.Group
	p.For(cv.C, cv.depthwiseGrain(), func(lo, hi int) {
		s, ws := newPlaneScratch[T](cv), getWorkspace[T]()
		defer s.recycle()
		defer ws.put()
		im := im2colSource[T]{data: s.frame, ow: ow, step: cv.StrideH * f.row}
		ws.chunks = im.cut(ws.chunks[:0], 0, pix)
		ws.edge = grow(ws.edge, ntaps*pix+panelSlack)
		for c := lo; c < hi; c++ {
			for n := range cv.N {
				fillFrame(cv, f, s.frame[:f.plane], x[(n*cv.C+c)*cv.H*cv.W:])
				im.gather(ws.edge, pix, s.offsets, ws.chunks)
				for m := c * rows; m < (c+1)*rows; m++ {
					plane := dy[(n*cv.M+m)*pix:][:pix]
					for t := range ntaps {
						dw[m*ntaps+t] += Dot(plane, ws.edge[t*pix:][:pix])
					}
				}
			}
		}
	})
}
