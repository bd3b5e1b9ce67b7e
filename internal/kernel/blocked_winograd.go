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

// sharedWeights is up to how many bytes of weights each thread reads them all, for tiles of its own.
const sharedWeights = 4 << 20

// blockWinograd computes one image by F(4×4, 3×3), see [convWinograd].
func blockWinograd(p *Pool, cv Conv2D, y, x []float32, w *BlockWeights, ep Epilogue) {
	b := w.lanes
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
	wp := winogradPart{cv: cv, y: y, w: w, u: u, ep: &ep, frame: frame, ins: ins, outs: outs, rows: rows}
	// Where there are tiles enough for every thread, and weights are few, a thread takes its own through all three phases: what one phase
	// leaves is then in its cache for the next.
	if threads := p.Threads(); threads > 1 && tr*tc >= 32*threads && 4*36*ins*outs*b*b <= sharedWeights {
		wp.rows = min(rows, ceilDiv(tr, 2*threads))
		p.For(ceilDiv(tr, wp.rows), 1, wp.Part)
		return
	}
	wp.pool, wp.space = p, space
	wp.Part(0, ceilDiv(tr, rows))
}

// winogradPart is an image's tiles in stretches of rows.
type winogradPart struct {
	pool            *Pool
	space           *blockSpace // nil: each call takes its own
	cv              Conv2D
	y, frame        []float32
	w               *BlockWeights
	u               [][]float32
	ep              *Epilogue
	ins, outs, rows int
}

// Part computes the stretches [lo, hi).
func (wp winogradPart) Part(lo, hi int) {
	p, space, cv, y, w, u, ep := wp.pool, wp.space, wp.cv, wp.y, wp.w, wp.u, wp.ep
	b, ins, outs, rows, frame := w.lanes, wp.ins, wp.outs, wp.rows, wp.frame
	oh, ow := cv.OutSize()
	tr, tc := cv.tiles()
	height, width := 4*tr+2, 4*tc+2
	if space == nil {
		space = blockSpaces.Get().(*blockSpace)
		defer blockSpaces.Put(space)
	}
	clamped := ep.clamped()
	for first := lo * rows; first < min(tr, hi*rows); first += rows {
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
					pixel: 4 * b, units: ins, plane: tiles * b, taps: 1, per: cv.C, chans: b, tapsAcross: 1, groups: 1, outs: outs}
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
						t.ending(ep, off)
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
