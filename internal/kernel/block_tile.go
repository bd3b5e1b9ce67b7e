package kernel

import (
	"math"
	"unsafe"
)

// A blockTile is the work of one call of a tile function on images in blocks (see [Block]): a few neighbouring outputs of one to four
// blocks. For each tap, the inputs of the outputs lie pixel bytes apart from src + the tap's offset on.
//
// The assembly knows the offsets of the fields; a test holds the two together.
type blockTile struct {
	src, dst     *float32
	weights      *float32 // by tap, channel and lane
	taps         *blockTap
	bias         *float32 // of the blocks, one after the other; nil: add to what is at dst
	residual     *float32 // in the order of dst, or nil
	n            int      // taps
	pixel        int      // in bytes, as all that follow
	stride       int      // from one block to the next, in dst
	weightStride int      // and in weights
	clamp        int      // which of lo and hi apply: clampBelow, clampAbove
	lo, hi       float32
	srcStride    int // of elements of a Winograd transform
	scratch      *float32
	ahead        *float32 // weights that are wanted soon

	// Of tiles that go over each block by itself: rows of outputs, one below the other, and from one to the next. srcAt and dstAt, which are 0 at first,
	// are where a row begins. outside is what is read where the image has ended.
	rows, srcRow, dstRow int
	srcAt, dstAt         int
	outside              *float32
}

const (
	clampBelow, clampAbove = 1, 2
	edgeLeft, edgeRight    = 1, 2
)

// A blockTap is one place of a window, in one block of channels.
type blockTap struct {
	offset int // in src, in bytes
	chans  int // channels there that weights meet; of tiles by single blocks whether it is edgeLeft or edgeRight: outside for their first or last output
}

// tap is the q-th of t's taps.
func (t *blockTile) tap(q int) *blockTap {
	return (*blockTap)(addr(t.taps, q*int(unsafe.Sizeof(blockTap{}))))
}

// numBlockWidths is the numbers of blocks that tiles come in: 1, 2 and 4.
const numBlockWidths = 3

// blockKernels is the tile functions by number of outputs.
type blockKernels struct {
	product            [numBlockWidths][]func(t *blockTile)
	depthwise, maximum []func(t *blockTile)
	sum                func(dst, src *float32, n int)
	winogradInput      func(dst, src, scratch *float32, row, stride int)
	winogradOutput     func(t *blockTile)
}

var blockActive *blockKernels

// blockGo is the kernels in Go, on blocks of goBlock.
var blockGo = newBlockGo()

const goBlock = 8

func newBlockGo() blockKernels {
	var k blockKernels
	for i := range k.product {
		k.product[i] = []func(*blockTile){nil}
		for p := 1; p <= 4>>i; p++ {
			k.product[i] = append(k.product[i], func(t *blockTile) { blockProductGo(t, p, 1<<i) })
		}
	}
	k.depthwise, k.maximum = []func(*blockTile){nil}, []func(*blockTile){nil}
	for p := 1; p <= 4; p++ {
		k.depthwise = append(k.depthwise, func(t *blockTile) { blockDepthwiseGo(t, p) })
		k.maximum = append(k.maximum, func(t *blockTile) { blockMaximumGo(t, p) })
	}
	k.sum, k.winogradInput, k.winogradOutput = blockSumGo, blockWinogradInputGo, blockWinogradOutputGo
	return k
}

// lane is the block of a register at p and off bytes after it.
func lane(p *float32, off int) *[goBlock]float32 {
	return (*[goBlock]float32)(addr(p, off))
}

func blockProductGo(t *blockTile, pixels, blocks int) {
	for k := range blocks {
		for i := range pixels {
			var sum [goBlock]float32
			if at := k*t.stride + i*4*goBlock; t.bias != nil {
				sum = *lane(t.bias, k*4*goBlock)
			} else {
				sum = *lane(t.dst, at)
			}
			w := 0
			for q := range t.n {
				tap := t.tap(q)
				src := addr(t.src, tap.offset+i*t.pixel)
				for c := range tap.chans {
					x := *(*float32)(addr((*float32)(src), 4*c))
					for l, v := range lane(t.weights, k*t.weightStride+w) {
						sum[l] += x * v
					}
					w += 4 * goBlock
				}
			}
			t.finish(&sum, k*t.stride+i*4*goBlock)
		}
	}
}

// finish writes sum at off bytes past dst.
func (t *blockTile) finish(sum *[goBlock]float32, off int) {
	if t.residual != nil {
		for l, v := range lane(t.residual, off) {
			sum[l] += v
		}
	}
	for l, v := range sum {
		if t.clamp&clampBelow != 0 && v < t.lo {
			v = t.lo
		}
		if t.clamp&clampAbove != 0 && v > t.hi {
			v = t.hi
		}
		sum[l] = v
	}
	*lane(t.dst, off) = *sum
}

// eachRow calls output for each of the outputs of t's rows.
func (t *blockTile) eachRow(pixels int, output func(i int)) {
	for {
		for i := range pixels {
			output(i)
		}
		t.srcAt += t.srcRow
		t.dstAt += t.dstRow
		if t.rows--; t.rows <= 0 {
			return
		}
	}
}

// input is the block that output i of so many meets at the q-th tap.
func (t *blockTile) input(q, i, pixels int) *[goBlock]float32 {
	tap := t.tap(q)
	if i == 0 && tap.chans&edgeLeft != 0 || i == pixels-1 && tap.chans&edgeRight != 0 {
		return lane(t.outside, 0)
	}
	return lane(t.src, t.srcAt+tap.offset+i*t.pixel)
}

func blockDepthwiseGo(t *blockTile, pixels int) {
	t.eachRow(pixels, func(i int) {
		sum := *lane(t.bias, 0)
		for q := range t.n {
			w := lane(t.weights, q*4*goBlock)
			for l, v := range t.input(q, i, pixels) {
				sum[l] += v * w[l]
			}
		}
		t.finish(&sum, t.dstAt+i*4*goBlock)
	})
}

func blockMaximumGo(t *blockTile, pixels int) {
	t.eachRow(pixels, func(i int) {
		var top [goBlock]float32
		for l := range top {
			top[l] = float32(math.Inf(-1))
		}
		for q := range t.n {
			for l, v := range t.input(q, i, pixels) {
				top[l] = max(top[l], v)
			}
		}
		t.finish(&top, t.dstAt+i*4*goBlock)
	})
}

func blockSumGo(dst, src *float32, n int) {
	var sum [goBlock]float32
	for i := range n {
		for l, v := range lane(src, i*4*goBlock) {
			sum[l] += v
		}
	}
	*lane(dst, 0) = sum
}

func blockWinogradInputGo(dst, src, _ *float32, row, stride int) {
	for l := range goBlock {
		var rows [6][6]float32
		for i := range rows {
			var d [6]float32
			for j := range d {
				d[j] = lane(src, i*row+j*4*goBlock)[l]
			}
			rows[i] = winogradInputRow(d)
		}
		for j := range 6 {
			for i, v := range winogradInputRow([6]float32{rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]}) {
				lane(dst, (6*i+j)*stride)[l] = v
			}
		}
	}
}

func blockWinogradOutputGo(t *blockTile) {
	var pixels [4][4][goBlock]float32
	for l := range goBlock {
		var rows [6][4]float32
		for i := range rows {
			var m [6]float32
			for j := range m {
				m[j] = lane(t.src, (6*i+j)*t.srcStride)[l]
			}
			rows[i] = winogradOutputRow(m)
		}
		for j := range 4 {
			for i, v := range winogradOutputRow([6]float32{rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]}) {
				pixels[i][j][l] = v + lane(t.bias, 0)[l]
			}
		}
	}
	for i := range pixels {
		for j := range pixels[i] {
			t.finish(&pixels[i][j], i*t.pixel+j*4*goBlock)
		}
	}
}

// addr is the address off bytes after p.
func addr[T any](p *T, off int) unsafe.Pointer { return unsafe.Add(unsafe.Pointer(p), off) }
