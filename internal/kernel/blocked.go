package kernel

import (
	"math"
	"sync"
)

// Images whose channels lie in blocks: N×C×H×W is stored as N×⌈C/B⌉×H×W×B, B being the float32s of a register. What convolutions and
// poolings read and write are then whole registers, with nothing to gather. The lanes past C hold any
// finite numbers: the weights that meet them are zero.

// Block is B, and 0 where there is no assembly and images had better stay as they are.
func Block() int {
	if active == levelGo {
		return 0
	}
	return blockLanes()
}

func blockLanes() int {
	if active == levelGo {
		return goBlock
	}
	return active.lanes()
}

// Blockable reports whether [BlockedConv] computes cv: convolutions of one group, and groups that are whole blocks or single channels.
func Blockable(cv Conv2D) bool {
	cv = cv.norm()
	b := blockLanes()
	return cv.Group == 1 || cv.depthwiseBlocks() || cv.C/cv.Group%b == 0 && cv.M/cv.Group%b == 0
}

func (cv Conv2D) depthwiseBlocks() bool { return cv.Group > 1 && cv.C == cv.Group && cv.M == cv.Group }

// BlockWeights is the weights of a convolution laid out for [BlockedConv], for any N, H, W and padding of it. They may be used by many
// goroutines at once, and what they are made of must stay as it is.
type BlockWeights struct {
	lanes    int
	bias     []float32 // of whole blocks
	zero     []float32 // as many zeros
	taps     []float32 // of a depthwise convolution, by block
	planar   func() []float32
	blocked  func() []float32
	winograd func() [][]float32
}

// PackBlocks lays out w, M×(C/Group)×KH×KW, and bias, M or nil.
func PackBlocks(cv Conv2D, w, bias []float32) *BlockWeights {
	cv = cv.norm()
	b := blockLanes()
	bw := &BlockWeights{lanes: b, bias: make([]float32, ceilDiv(cv.M, b)*b), zero: make([]float32, ceilDiv(cv.M, b)*b)}
	copy(bw.bias, bias)
	ntaps := cv.KH * cv.KW
	if cv.depthwiseBlocks() {
		bw.taps = kept[float32](len(bw.bias) * ntaps)
		for i, v := range w[:cv.M*ntaps] {
			m, k := i/ntaps, i%ntaps
			bw.taps[(m/b*ntaps+k)*b+m%b] = v
		}
		return bw
	}
	// Blocks of outputs, of inputs of a group, taps, inputs in a block, outputs in a block.
	pack := func(chans, taps int, at func(m, c, k int) float32) []float32 {
		per := cv.C / cv.Group
		out := kept[float32](len(bw.bias) * per * taps)
		i := 0
		for m0 := 0; m0 < cv.M; m0 += b {
			for c0 := 0; c0 < per; c0 += chans {
				for k := range taps {
					for c := c0; c < min(c0+chans, per); c++ {
						for m := m0; m < min(m0+b, cv.M); m++ {
							out[i+m-m0] = at(m, c, k)
						}
						i += b
					}
				}
			}
		}
		return out
	}
	plain := func(m, c, k int) float32 { return w[(m*(cv.C/cv.Group)+c)*ntaps+k] }
	bw.planar = sync.OnceValue(func() []float32 { return pack(1, ntaps, plain) })
	bw.blocked = sync.OnceValue(func() []float32 { return pack(b, ntaps, plain) })
	bw.winograd = sync.OnceValue(func() [][]float32 {
		u := make([][]float32, 36)
		for e := range u {
			g := filterOf(e)
			u[e] = pack(b, 1, func(m, c, _ int) float32 {
				sum := 0.0
				for k, x := range w[(m*cv.C+c)*9:][:9] {
					sum += g[k] * float64(x)
				}
				return float32(sum)
			})
		}
		return u
	})
	return bw
}

// blockSpace is memory for a worker or a convolution.
type blockSpace struct {
	frame, v, m   []float32
	taps          []blockTap
	spans         []blockSpan
	weights       []float32
	scratch, edge [36 * 16]float32
	tile          blockTile
}

var blockSpaces = sync.Pool{New: func() any { return new(blockSpace) }}

// extent is the rows and columns that windows cover.
func (cv Conv2D) extent() (h, w int) {
	oh, ow := cv.OutSize()
	return (oh-1)*cv.StrideH + (cv.KH-1)*cv.DilH + 1, (ow-1)*cv.StrideW + (cv.KW-1)*cv.DilW + 1
}

// framed reports whether windows reach outside the image.
func (cv Conv2D) framed() bool {
	h, w := cv.extent()
	return cv.PadTop|cv.PadLeft != 0 || h > cv.H || w > cv.W
}

// fillBlockFrame copies an H×W image of pixels of that many float32s, and zeros around it, into dst: the rows [lo, hi) of what is width wide.
func fillBlockFrame(cv Conv2D, dst []float32, lo, hi, width int, src []float32, pixel int) {
	left := min(cv.PadLeft, width) * pixel
	n := min(cv.W, max(0, width-cv.PadLeft)) * pixel
	row := width * pixel
	for r := lo; r < hi; r++ {
		to, h := dst[(r-lo)*row:][:row], r-cv.PadTop
		if h < 0 || h >= cv.H {
			clear(to)
			continue
		}
		clear(to[:left])
		copy(to[left:left+n], src[h*cv.W*pixel:])
		clear(to[left+n:])
	}
}

// fillBlockFrames is [fillBlockFrame] for n images one after the other.
func fillBlockFrames(p *Pool, cv Conv2D, dst []float32, height, width int, src []float32, pixel, n int) {
	InParts(p, height, blockGrain(n*width*pixel/blockLanes()), blockFrames{cv, dst, src, height, width, pixel, n})
}

type blockFrames struct {
	cv                      Conv2D
	dst, src                []float32
	height, width, pixel, n int
}

// Part fills the rows [lo, hi) of all frames.
func (f blockFrames) Part(lo, hi int) {
	row := f.width * f.pixel
	for u := range f.n {
		fillBlockFrame(f.cv, f.dst[(u*f.height+lo)*row:], lo, hi, f.width, f.src[u*f.cv.H*f.cv.W*f.pixel:], f.pixel)
	}
}

// BlockedConv computes a convolution from x, which is in blocks or, if planar, is not, to y in blocks, and applies ep, of which it takes the
// residual, in blocks, and the activation.
func BlockedConv(p *Pool, cv Conv2D, y, x []float32, planar bool, w *BlockWeights, ep *Epilogue) {
	cv = cv.norm()
	b := w.lanes
	oh, ow := cv.OutSize()
	chans := ceilDiv(cv.C, b) * b
	if planar {
		chans = cv.C
	}
	in, out := chans*cv.H*cv.W, len(w.bias)*oh*ow
	if len(x) < cv.N*in || len(y) < cv.N*out || ep != nil && ep.Residual != nil && len(ep.Residual) < cv.N*out {
		panic("kernel: BlockedConv: operand too short")
	}
	if out == 0 {
		return
	}
	var part Epilogue
	if ep != nil {
		part = *ep
	}
	for n := range cv.N {
		if ep != nil && ep.Residual != nil {
			part.Residual = ep.Residual[n*out:][:out]
		}
		yn, xn := y[n*out:][:out], x[n*in:][:in]
		switch {
		case w.taps != nil:
			blockPlanes{cv: cv, b: b, y: yn, x: xn, tiles: blockActive.depthwise, weights: w.taps, bias: w.bias, ep: part}.run(p)
		case !planar && cv.blockWinograd():
			blockWinograd(p, cv, yn, xn, w, part)
		default:
			blockProduct(p, cv, yn, xn, planar, w, part)
		}
	}
}

// BlockedMaxPool computes maxima over windows, of which cv gives the geometry (C = M, Group 1), in blocks; padding is less than any number.
func BlockedMaxPool(p *Pool, cv Conv2D, y, x []float32) {
	blockPooled(p, cv.norm(), y, x, blockPlanes{tiles: blockActive.maximum})
}

// blockPooled runs bp's tiles over each image.
func blockPooled(p *Pool, cv Conv2D, y, x []float32, bp blockPlanes) {
	b := blockLanes()
	oh, ow := cv.OutSize()
	blocks := ceilDiv(cv.C, b)
	in, out := blocks*b*cv.H*cv.W, blocks*b*oh*ow
	if out == 0 {
		return
	}
	for n := range cv.N {
		bp.cv, bp.b, bp.y, bp.x = cv, b, y[n*out:][:out], x[n*in:][:in]
		bp.run(p)
	}
}

// BlockedMean sets y to the means of pixels neighbours of x, both in blocks.
func BlockedMean(p *Pool, y, x []float32, pixels int) {
	InParts(p, len(y)/blockLanes(), max(1, 4096/max(1, pixels)), blockSums{y, x, pixels})
	Affine(y, y, 1/float32(pixels), 0)
}

// blockSums is the sums of pixels neighbours.
type blockSums struct {
	y, x   []float32
	pixels int
}

// Part computes those of the blocks [lo, hi).
func (s blockSums) Part(lo, hi int) {
	b := blockLanes()
	for i := lo; i < hi; i++ {
		blockActive.sum(&s.y[i*b], &s.x[i*b*s.pixels], s.pixels)
	}
}

// ending prepares t for the last addition to the outputs from off on.
func (t *blockTile) ending(ep *Epilogue, off int) {
	if ep.Residual != nil {
		t.residual = &ep.Residual[off]
	}
	if lo, hi, ok := ep.clampOf(); ok {
		t.clamp, t.lo, t.hi = 0, lo, hi
		if lo > float32(math.Inf(-1)) {
			t.clamp |= clampBelow
		}
		if hi < float32(math.Inf(1)) {
			t.clamp |= clampAbove
		}
	}
}

// clamped reports whether [blockTile.ending] sees to the activation.
func (ep *EpilogueOf[T]) clamped() bool {
	_, _, ok := ep.clampOf()
	return ok || ep.Act == ActNone
}

// blockPlanes is tiles that go over each block of an image by itself.
type blockPlanes struct {
	cv      Conv2D
	b       int
	y, x    []float32
	tiles   []func(*blockTile)
	weights []float32 // of each block a register for each tap, or of all blocks; nil if the tiles take none
	bias    []float32 // and one register for it
	ep      Epilogue

	rows, bands int  // how the rows of outputs are cut
	byRows      bool // bands come one after the other, else blocks
}

func (bp blockPlanes) run(p *Pool) {
	cv := bp.cv
	oh, ow := cv.OutSize()
	// Bands of rows whose inputs stay in the first cache.
	bp.rows = min(oh, max(1, blockBandBytes/(4*bp.b*cv.W*cv.StrideH)))
	bp.bands = ceilDiv(oh, bp.rows)
	blocks := len(bp.y) / (oh * ow * bp.b)
	if bp.byRows = p.Threads() > 1 && blockByRows(oh*ow, blocks*bp.b); bp.byRows {
		bp.rows = ceilDiv(oh, evenly(bp.bands, p.Threads()))
		bp.bands = ceilDiv(oh, bp.rows)
	}
	items, grain := blocks*bp.bands, blockGrain(bp.rows*ow*(cv.KH*cv.KW+4))
	InParts(p, items, grain, bp)
}

// blockByRows reports whether threads had better share out the pixels of images in blocks than their channels: as a pointwise convolution to
// that many channels is shared out, the weights of which weigh less than its image then. What one operator leaves in a processor's caches
// is thus where the next looks for it.
func blockByRows(pixels, channels int) bool { return pixels >= channels }

// blockGrain is how many items that take so many operations on registers each are worth giving to another worker: some microsecond's, since the work is
// mostly on what that worker has in its caches.
func blockGrain(operations int) int { return max(1, 4096/max(1, operations)) }

// evenly is n or the next multiple of threads.
func evenly(n, threads int) int { return ceilDiv(n, threads) * threads }

// A blockSpan is outputs of a row, [at, end), whose windows have the taps [from, to) across, in the image, but that the first output may
// lack some at the left, and the last at the right: their taps begin, for a tile with neither, with the first, the last and both of these
// outputs, at the places of firsts in [blockSpace.taps], those of the rows of a window that is whole up and down.
type blockSpan struct {
	at, end, from, to int
	left, right       bool
	lead              int // the first tap that the first output has
	firsts            [4]int
}

// span lists the spans of cv's rows and their taps in ws.
func (ws *blockSpace) span(cv Conv2D, b int) {
	_, ow := cv.OutSize()
	ws.spans, ws.taps = ws.spans[:0], ws.taps[:0]
	// Windows of [whole, end) are whole.
	whole := ceilDiv(cv.PadLeft, cv.StrideW)
	end := min(ow, floorDiv(cv.W-1-(cv.KW-1)*cv.DilW+cv.PadLeft, cv.StrideW)+1)
	for w := 0; w < ow; {
		s := blockSpan{at: w, end: w + 1}
		if whole < end && w == max(0, whole-1) {
			s.to, s.left, s.right = cv.KW, whole > 0, end < ow
			s.end = min(ow, end+1)
		} else {
			s.from, s.to = tapsInside(w*cv.StrideW-cv.PadLeft, cv.DilW, cv.KW, cv.W)
		}
		s.lead, _ = tapsInside(s.at*cv.StrideW-cv.PadLeft, cv.DilW, cv.KW, cv.W)
		_, trail := tapsInside((s.end-1)*cv.StrideW-cv.PadLeft, cv.DilW, cv.KW, cv.W)
		for edges := range s.firsts {
			s.firsts[edges] = len(ws.taps)
			if edges&edgeLeft != 0 && !s.left || edges&edgeRight != 0 && !s.right {
				continue
			}
			zero := s.from // the tap that src points at
			if edges&edgeLeft != 0 {
				zero = s.lead
			}
			for kh := range cv.KH {
				for kw := s.from; kw < s.to; kw++ {
					tap := blockTap{offset: 4 * b * (kh*cv.DilH*cv.W + (kw-zero)*cv.DilW)}
					if edges&edgeLeft != 0 && kw < s.lead {
						tap.chans |= edgeLeft
					}
					if edges&edgeRight != 0 && kw >= trail {
						tap.chans |= edgeRight
					}
					ws.taps = append(ws.taps, tap)
				}
			}
		}
		ws.spans = append(ws.spans, s)
		w = s.end
	}
	ws.taps = append(ws.taps, blockTap{}) // for windows with none to point to
}

// floorDiv is ⌊a/b⌋ for b > 0.
func floorDiv(a, b int) int {
	if a < 0 {
		return -ceilDiv(-a, b)
	}
	return a / b
}

// tapsInside is the taps i of k, [from, to), whose place first + i·dilation is in [0, size).
func tapsInside(first, dilation, k, size int) (from, to int) {
	if first < 0 {
		from = min(k, ceilDiv(-first, dilation))
	}
	return from, max(from, min(k, ceilDiv(max(0, size-first), dilation)))
}

// Part computes the items [lo, hi).
func (bp blockPlanes) Part(lo, hi int) {
	cv, b, y := bp.cv, bp.b, bp.y
	oh, ow := cv.OutSize()
	clamped := bp.ep.clamped()
	row := cv.KW * b // weights of a row of taps
	ws := blockSpaces.Get().(*blockSpace)
	defer blockSpaces.Put(ws)
	ws.span(cv, b)
	// Windows of the rows [top, bottom) are whole up and down.
	top, bottom := ceilDiv(cv.PadTop, cv.StrideH), floorDiv(cv.H-1-(cv.KH-1)*cv.DilH+cv.PadTop, cv.StrideH)+1
	t := &ws.tile
	for item := lo; item < hi; item++ {
		q, first := item/bp.bands, item%bp.bands*bp.rows
		if bp.byRows {
			blocks := len(y) / (oh * ow * b)
			q, first = item%blocks, item/blocks*bp.rows
		}
		last := min(first+bp.rows, oh)
		src := bp.x[q*cv.H*cv.W*b:][:cv.H*cv.W*b]
		*t = blockTile{pixel: 4 * b * cv.StrideW, srcRow: 4 * b * cv.W * cv.StrideH, dstRow: 4 * b * ow, outside: &blockZeros[0]}
		var weights []float32
		if bp.weights != nil {
			weights, t.bias = bp.weights[q*cv.KH*row%len(bp.weights):][:cv.KH*row], &bp.bias[q*b%len(bp.bias)]
		} else {
			t.outside = &blockLeast[0]
		}
		for _, s := range ws.spans {
			n, of := s.to-s.from, weights
			if n < cv.KW && of != nil { // those of the taps that are left lie one after the other
				of = ws.weights[:0]
				for kh := range cv.KH {
					of = append(of, weights[kh*row+s.from*b:kh*row+s.to*b]...)
				}
				ws.weights = of
			}
			parts := ceilDiv(s.end-s.at, len(bp.tiles)-1)
			for h := first; h < last; {
				above := h*cv.StrideH - cv.PadTop
				from, to := tapsInside(above, cv.DilH, cv.KH, cv.H)
				rows := 1
				if h >= top && h < bottom {
					rows = min(bottom, last) - h
				}
				t.n = (to - from) * n
				if t.n > 0 && of != nil {
					t.weights = &of[from*n*b]
				}
				for i := range parts {
					at, width := share(s.end-s.at, i, parts)
					edges, zero := 0, s.from
					if s.left && i == 0 {
						edges, zero = edgeLeft, s.lead
					}
					if s.right && i == parts-1 {
						edges |= edgeRight
					}
					at += s.at
					off := ((q*oh+h)*ow + at) * b
					t.rows, t.srcAt, t.dstAt, t.taps = rows, 0, 0, &ws.taps[s.firsts[edges]]
					t.src, t.dst = &src[0], &y[off]
					if t.n > 0 {
						t.src = &src[((above+from*cv.DilH)*cv.W+at*cv.StrideW-cv.PadLeft+zero*cv.DilW)*b]
					}
					t.ending(&bp.ep, off)
					bp.tiles[width](t)
				}
				h += rows
			}
		}
		if !clamped {
			bp.ep.activate(y[(q*oh+first)*ow*b : (q*oh+last)*ow*b])
		}
	}
}

// What lies outside an image.
var blockZeros, blockLeast = func() (zeros, least [16]float32) {
	for i := range least {
		least[i] = float32(math.Inf(-1))
	}
	return zeros, least
}()

// share is where part i of n nearly equal parts of a row begins, and its length.
func share(row, i, n int) (at, length int) {
	at = i * row / n
	return at, (i+1)*row/n - at
}

// How much of the weights and of the image a worker goes over before it comes to the next part: a share of the first and of
// the second cache.
const (
	blockWeightBytes = 48 << 10
	blockImageBytes  = 384 << 10
	blockBandBytes   = 24 << 10
)

// blockProduct computes one image.
func blockProduct(p *Pool, cv Conv2D, y, x []float32, planar bool, w *BlockWeights, ep Epilogue) {
	b := w.lanes
	oh, ow := cv.OutSize()
	pixel, chans, weights := b, b, []float32(nil)
	if planar {
		pixel, chans, weights = 1, 1, w.planar()
	} else {
		weights = w.blocked()
	}
	per := cv.C / cv.Group
	units := ceilDiv(per, chans) // of a group: its blocks, or its channels
	height, width, src := cv.H, cv.W, x
	var space *blockSpace
	if cv.framed() {
		space = blockSpaces.Get().(*blockSpace)
		defer blockSpaces.Put(space)
		height, width = cv.extent()
		space.frame = grow(space.frame, units*cv.Group*height*width*pixel)
		src = space.frame
		fillBlockFrames(p, cv, src, height, width, x, pixel, units*cv.Group)
	}
	step := 4 * pixel * cv.StrideW
	oyStep := cv.StrideH * width * pixel
	switch {
	case cv.KW == 1 && cv.StrideW == 1 && cv.StrideH == 1 && width == ow: // one long row
		ow, oh = oh*ow, 1
	case ow == 1: // a column is as good as a row
		ow, oh, step = oh, 1, 4*oyStep
	}
	blockProducts{b: b, y: y, x: src, weights: weights, bias: w.bias, ep: ep, oh: oh, ow: ow, pixel: step, row: oyStep,
		units: units, plane: height * width * pixel, taps: cv.KH * cv.KW, tapsAcross: cv.KW, tapDown: 4 * pixel * cv.DilH * width,
		tapRight: 4 * pixel * cv.DilW, per: per, chans: chans, groups: cv.Group, outs: len(w.bias) / b / cv.Group}.run(p)
}

// blockProducts is a convolution as tiles of products: outputs are oh rows of ow pixels; their inputs are pixel bytes apart, and the
// rows of those row float32s.
type blockProducts struct {
	b                   int
	y, x, weights, bias []float32
	ep                  Epilogue
	oh, ow, pixel, row  int
	units, plane        int // blocks or channels of inputs in a group, and float32s from one to the next
	taps, per, chans    int // per is the channels of inputs in a group, chans those in a unit, which the last may not fill
	tapsAcross          int // taps in a row, and bytes from a tap to the next, and from a row to the next
	tapRight, tapDown   int
	groups, outs        int // outs is the blocks of outputs in a group

	index, wide, chunk, step int  // how the work is cut, see run
	byRows                   bool // chunks of rows come one after the other, else blocks of outputs
}

// width is the index and number of blocks in the tiles of bp: four where rows are so short that fewer would leave registers unused.
func (bp *blockProducts) width() (index, blocks int) {
	switch {
	case bp.outs >= 4 && bp.ow < len(blockActive.product[2]):
		return 2, 4
	case bp.outs >= 2:
		return 1, 2
	}
	return 0, 1
}

func (bp blockProducts) run(p *Pool) {
	b := bp.b
	index, width := bp.width()
	most := len(blockActive.product[index]) - 1
	tiles := bp.oh * ceilDiv(bp.ow, most)
	unit := bp.taps * bp.chans * b // weights of a block of outputs and a unit
	bp.index, bp.step = index, min(bp.units, max(1, blockWeightBytes/4/(unit*width)))
	perTile := 4 * bp.units * max(1, len(bp.x)/max(1, bp.groups*bp.units*tiles))
	bp.chunk = min(tiles, max(4, blockImageBytes/perTile))
	bp.wide = ceilDiv(bp.outs, width)
	bp.byRows = true
	if threads := p.Threads(); threads > 1 {
		chunks := ceilDiv(tiles, bp.chunk)
		if bp.byRows = len(bp.x) >= len(bp.weights); bp.byRows {
			chunks = evenly(chunks, threads)
		}
		if chunks*bp.wide*bp.groups < 4*threads {
			chunks = ceilDiv(4*threads, bp.wide*bp.groups)
			if bp.byRows {
				chunks = evenly(chunks, threads)
			}
		}
		bp.chunk = ceilDiv(tiles, min(tiles, chunks))
	}
	items := ceilDiv(tiles, bp.chunk) * bp.groups * bp.wide
	grain := blockGrain(bp.chunk * most * unit * width * bp.units / b)
	InParts(p, items, grain, bp)
}

// Part computes the items [lo, hi).
func (bp blockProducts) Part(lo, hi int) {
	b, index, wide, step := bp.b, bp.index, bp.wide, bp.step
	_, width := bp.width()
	across := ceilDiv(bp.ow, len(blockActive.product[index])-1)
	tiles := bp.oh * across
	chunks := ceilDiv(tiles, bp.chunk)
	unit, whole := bp.taps*bp.chans*b, bp.taps*bp.per*b // weights of a block of outputs and a unit, and of all units
	clamped := bp.ep.clamped()
	pix := bp.oh * bp.ow * b // float32s of a block of outputs
	ws := blockSpaces.Get().(*blockSpace)
	defer blockSpaces.Put(ws)
	ws.taps = ws.taps[:0]
	for u := range bp.units {
		for k := range bp.taps {
			ws.taps = append(ws.taps, blockTap{4*(u%step)*bp.plane + k/bp.tapsAcross*bp.tapDown + k%bp.tapsAcross*bp.tapRight, min(bp.chans, bp.per-u*bp.chans)})
		}
	}
	t := &ws.tile
	for item := lo; item < hi; item++ {
		part, all := item/chunks, item%chunks // of outputs, of tiles
		if bp.byRows {
			part, all = item%(wide*bp.groups), item/(wide*bp.groups)
		}
		g, m, first := part/wide, part%wide*width, all*bp.chunk
		last := min(first+bp.chunk, tiles)
		for n := min(width, bp.outs-m); n > 0; { // what is left at the end may take narrower tiles
			i := index
			for 1<<i > n {
				i--
			}
			out := g*bp.outs + m
			for u := 0; u < bp.units; u += step {
				us := min(step, bp.units-u)
				*t = blockTile{taps: &ws.taps[u*bp.taps], n: us * bp.taps, pixel: bp.pixel, stride: 4 * pix, weightStride: 4 * whole,
					weights: &bp.weights[out*whole+u*unit]}
				if u == 0 {
					t.bias = &bp.bias[out*b]
				}
				src := bp.x[(g*bp.units+u)*bp.plane:]
				// The weights after these come while the first two tiles are made.
				size := min(us*unit, whole-u*unit)
				next := out*whole + (u+us)*unit
				if u+us == bp.units {
					next = (out + 1<<i) * whole
				}
				next = min(next, len(bp.weights)-size)
				for q := first; q < last; q++ {
					h := q / across
					at, width := share(bp.ow, q%across, across)
					off := out*pix + (h*bp.ow+at)*b
					t.src, t.dst = &src[h*bp.row+at*bp.pixel/4], &bp.y[off]
					t.ahead = &bp.weights[min(next+(q-first)*size/2, next+size-1)]
					ending := u+us == bp.units
					if ending {
						t.ending(&bp.ep, off)
					}
					blockActive.product[i][width](t)
					if ending && !clamped {
						for k := range 1 << i {
							bp.ep.activate(bp.y[off+k*pix:][:width*b])
						}
					}
				}
			}
			m, n = m+1<<i, n-1<<i
		}
	}
}
