package kernel

// blockWinograd reports whether tiles are the quicker way for cv in blocks.
func (cv Conv2D) blockWinograd() bool {
	if cv.KH != 3 || cv.KW != 3 || cv.StrideH != 1 || cv.StrideW != 1 || cv.DilH != 1 || cv.DilW != 1 || cv.Group != 1 || cv.C < 16 || cv.M < 16 {
		return false
	}
	// A transform costs as much as some 120 multiplications per element of a channel, and with few tiles the
	// transformed weights, four times as many, take longer to come than to multiply.
	tr, tc := cv.tiles()
	tiles := tr * tc
	oh, ow := cv.OutSize()
	return 36*cv.C*cv.M*max(tiles, 64)+120*36/9*(cv.C+cv.M)*tiles < 9*cv.C*cv.M*oh*ow/10*9
}

// winogradBytes is how much memory the transforms of the tiles under way may take.
const winogradBytes = 1 << 20

// blockWinograd computes one image by F(4×4, 3×3), see [convWinograd].
func blockWinograd(p *Pool, cv Conv2D, y, x []float32, w *BlockWeights, ep Epilogue) {
	b := w.lanes
	oh, ow := cv.OutSize()
	tr, tc := cv.tiles()
	ins, outs := ceilDiv(cv.C, b), len(w.bias)/b
	u := w.winograd()
	height, width := 4*tr+2, 4*tc+2
	space := blockSpaces.Get().(*blockSpace)
	defer blockSpaces.Put(space)
	space.frame = grow(space.frame, ins*height*width*b)
	frame := space.frame
	fillBlockFrames(p, cv, frame, height, width, x, b, ins)
	// Rows of tiles are taken together as far as the memory goes.
	rows := min(tr, max(1, winogradBytes/(4*36*b*(ins+outs)*tc)))
	rows = ceilDiv(tr, ceilDiv(tr, rows))
	clamped := ep.clamped()
	for first := 0; first < tr; first += rows {
		tiles := min(rows, tr-first) * tc
		planeV, planeM := ins*tiles*b, outs*tiles*b
		space.v, space.m = grow(space.v, 36*planeV), grow(space.m, 36*planeM)
		v, m := space.v, space.m
		p.For(ins, max(1, 64/tiles), func(lo, hi int) {
			ws := blockSpaces.Get().(*blockSpace)
			defer blockSpaces.Put(ws)
			for q := lo; q < hi; q++ {
				for t := range tiles {
					at := (q*height+4*(first+t/tc))*width + 4*(t%tc)
					blockActive.winogradInput(&v[(q*tiles+t)*b], &frame[at*b], &ws.scratch[0], 4*width*b, 4*planeV)
				}
			}
		})
		p.For(36, 1, func(lo, hi int) {
			for e := lo; e < hi; e++ {
				bp := blockProducts{b: b, y: m[e*planeM:][:planeM], x: v[e*planeV:][:planeV], weights: u[e], bias: w.zero, oh: 1, ow: tiles,
					pixel: 4 * b, units: ins, plane: tiles * b, taps: 1, chans: b, tapsAcross: 1, groups: 1, outs: outs}
				bp.run(nil)
			}
		})
		p.For(outs, max(1, 64/tiles), func(lo, hi int) {
			ws := blockSpaces.Get().(*blockSpace)
			defer blockSpaces.Put(ws)
			t := &ws.tile
			for q := lo; q < hi; q++ {
				*t = blockTile{bias: &w.bias[q*b], srcStride: 4 * planeM, scratch: &ws.scratch[0]}
				for k := range tiles {
					h, c := 4*(first+k/tc), 4*(k%tc)
					off := ((q*oh+h)*ow + c) * b
					t.src = &m[(q*tiles+k)*b]
					if h+4 <= oh && c+4 <= ow {
						t.dst, t.pixel = &y[off], 4*ow*b
						t.ending(&ep, off)
						blockActive.winogradOutput(t)
						continue
					}
					// A tile over the edge goes by way of memory of its own.
					t.dst, t.pixel, t.residual, t.clamp = &ws.edge[0], 16*b, nil, 0
					blockActive.winogradOutput(t)
					n := min(4, ow-c) * b
					for r := range min(4, oh-h) {
						part, to := ws.edge[4*r*b:][:n], off+r*ow*b
						if ep.Residual != nil {
							Add(part, part, ep.Residual[to:][:n])
						}
						if clamped {
							ep.activate(part)
						}
						copy(y[to:], part)
					}
				}
				if !clamped {
					top, bottom := (q*oh+4*first)*ow*b, (q*oh+min(oh, 4*(first+tiles/tc)))*ow*b
					ep.activate(y[top:bottom])
				}
			}
		})
	}
}
