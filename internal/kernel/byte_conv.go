package kernel

import (
	"encoding/binary"
	"sync"
	"unsafe"
)

// Conv3D is a convolution like [Conv2D] with another axis before the others, of N×C×D×H×W and M×(C/Group)×KD×KH×KW; as long as KD is 0 it has
// none.
type Conv3D struct {
	Conv2D
	D, KD, StrideD, DilD int
	PadFront, PadBack    int
}

func (cv Conv3D) norm() Conv3D {
	cv.Conv2D = cv.Conv2D.norm()
	if cv.KD == 0 {
		cv.D, cv.KD, cv.PadFront, cv.PadBack = 1, 1, 0, 0
	}
	for _, v := range []*int{&cv.StrideD, &cv.DilD} {
		*v = max(*v, 1)
	}
	return cv
}

// OutSize returns the depth, height and width of Y.
func (cv Conv3D) OutSize() (od, oh, ow int) {
	cv = cv.norm()
	oh, ow = cv.Conv2D.OutSize()
	return outSize(cv.D, cv.PadFront+cv.PadBack, cv.KD, cv.DilD, cv.StrideD), oh, ow
}

// extent is the planes, rows and columns that windows cover.
func (cv Conv3D) extent() (d, h, w int) {
	od, _, _ := cv.OutSize()
	h, w = cv.Conv2D.extent()
	return (od-1)*cv.StrideD + (cv.KD-1)*cv.DilD + 1, h, w
}

// framed reports whether windows reach outside the image.
func (cv Conv3D) framed() bool {
	d, _, _ := cv.extent()
	return cv.Conv2D.framed() || cv.PadFront != 0 || d > cv.D
}

// PackedConvS8 is the weights of a convolution of bytes laid out for [ConvU8S8]. It holds for any N, D, H, W, stride and padding of the same
// convolution, and may be used by many goroutines at once.
type PackedConvS8 struct {
	cv        Conv3D
	kern      *igemmKernel
	depthwise bool
	merged    bool // the taps of a row are one, as wide as the kernel
	parts     int  // how many weights of 8 bits one of them is the sum of
	taps, k   int  // of a part, and the dwords at each
	perGroup  int  // panels of a group
	panels    []uint32
	colSum    []int32 // filled up to whole panels
}

// PackConvS8 packs w - zero, w of M×(C/Group)×KD×KH×KW. zero is nil for 0, or holds one value for all output channels, or M.
func PackConvS8(cv Conv3D, w, zero []int8) *PackedConvS8 {
	cv = cv.norm()
	kern := igemmActive
	per, rows, kd := cv.C/cv.Group, cv.M/cv.Group, cv.KD*cv.KH // rows of all planes of the kernel are one list
	weights := make([]int16, cv.M*per*kd*cv.KW)
	pw := &PackedConvS8{cv: cv, kern: kern, parts: 1}
	for i := range weights {
		weights[i] = int16(w[i])
		if len(zero) > 0 {
			weights[i] -= int16(zero[min(i/(len(weights)/cv.M), len(zero)-1)])
		}
	}
	pw.depthwise = cv.Group > 1 && per == 1 && rows == 1
	if pw.depthwise {
		pw.taps, pw.k, rows = kd*cv.KW, 1, cv.M
	} else {
		span := per
		if pw.taps, pw.merged = kd*cv.KW, cv.Group == 1 && (cv.DilW == 1 || cv.KW == 1); pw.merged {
			pw.taps, span = kd, per*cv.KW
		}
		pw.k = ceilDiv(span, kern.perDword())
		for _, v := range weights {
			if kern.bytes {
				pw.parts = max(pw.parts, partsOf(v))
			}
		}
	}
	pw.perGroup = ceilDiv(rows, kern.cols)
	groups := cv.M / max(1, rows)
	pw.panels = kept[uint32](groups * pw.perGroup * pw.panel())
	pw.colSum = make([]int32, groups*pw.perGroup*kern.cols)
	for m := range cv.M {
		col := m/rows*pw.perGroup*kern.cols + m%rows
		panel := pw.panels[col/kern.cols*pw.panel()+col%kern.cols:]
		for kh := range kd {
			for c := range per {
				for kw := range cv.KW {
					v := weights[((m*per+c)*kd+kh)*cv.KW+kw]
					pw.colSum[col] += int32(v)
					tap, p := kh*cv.KW+kw, c
					if pw.merged {
						tap, p = kh, kw*per+c
					}
					if pw.depthwise {
						panel[tap*kern.cols] = uint32(int32(v))
						continue
					}
					for part := range pw.parts {
						x := v
						if kern.bytes {
							x = max(-128, min(127, v))
						}
						v -= x
						panel[((part*pw.taps+tap)*pw.k+p/kern.perDword())*kern.cols] |= kern.word(x, p)
					}
				}
			}
		}
	}
	return pw
}

// partsOf is how many integers of 8 bits v is the sum of.
func partsOf(v int16) int {
	if v < 0 {
		return max(1, ceilDiv(int(-v), 128))
	}
	return max(1, ceilDiv(int(v), 127))
}

// panel is the dwords of a panel.
func (pw *PackedConvS8) panel() int { return pw.parts * pw.taps * pw.k * pw.kern.cols }

// A byteConv is one call of ConvU8S8; they are recycled with their buffers.
type byteConv struct {
	isums
	cv                   Conv3D
	w                    *PackedConvS8
	x                    []uint8
	flip, pad            uint8
	y                    unsafe.Pointer
	od, oh, ow           int // of outputs: a plane whose rows follow each other is one row
	depth, height, width int // of the image or its frame
	pixel                int // in bytes
	frame                []uint32
	framed               bool
	image                unsafe.Pointer // or its frame
	offsets              []int
	across               int // tiles of a row of outputs
	bands                int
	frameBody, tilesBody func(lo, hi int)
}

var byteConvs = sync.Pool{New: func() any {
	bc := new(byteConv)
	bc.frameBody, bc.tilesBody = bc.frames, bc.tiles
	return bc
}}

// ConvU8S8 computes a convolution of bytes, exactly in 32-bit arithmetic (sums past 2^31 wrap around), of images whose channels are the last
// axis, N×D×H×W×C, to Y, N×OD×OH×OW×M. The bytes of x are taken after the bits in flip have been turned over; from them xZero is subtracted, which
// is also what stands outside the image. scale may be nil for sums. Y is of int32 or, with a scale, float32, or, where that rounds, bytes.
func ConvU8S8[T int32 | float32 | uint8](p *Pool, cv Conv3D, y []T, x []uint8, flip, xZero uint8, w *PackedConvS8, scale *ByteScale) {
	cv = cv.norm()
	od, oh, ow := cv.OutSize()
	in, out := cv.C*cv.D*cv.H*cv.W, cv.M*od*oh*ow
	if len(x) < cv.N*in || len(y) < cv.N*out {
		panic("kernel: ConvU8S8: operand too short")
	}
	if cv.N*out == 0 {
		return
	}
	bc := byteConvs.Get().(*byteConv)
	bc.cv, bc.w, bc.flip, bc.pad = cv, w, flip, xZero
	bc.plan(p)
	bc.colSum, bc.colBy, bc.useZero = w.colSum, -int32(xZero), false
	groups := cv.Group
	if w.depthwise {
		groups = 1
	}
	bc.scaled(scale, groups, cv.M/groups, len(w.colSum))
	if bc.size != int(unsafe.Sizeof(y[0])) {
		panic("kernel: ConvU8S8: the scale does not suit the elements of Y")
	}
	for n := range cv.N {
		bc.x = x[n*in:][:in]
		bc.y = unsafe.Pointer(unsafe.SliceData(y[n*out:]))
		if bc.image = unsafe.Pointer(unsafe.SliceData(bc.x)); bc.framed {
			bc.image = unsafe.Pointer(unsafe.SliceData(bc.frame))
			p.For(bc.depth*bc.height, 1+serialWork/4/(bc.width*bc.pixel+1), bc.frameBody)
		}
		if out*w.parts*w.taps*w.k < serialWork {
			bc.tiles(0, bc.bands*len(w.colSum)/w.kern.cols)
		} else {
			p.For(bc.bands*len(w.colSum)/w.kern.cols, 1, bc.tilesBody)
		}
	}
	bc.w, bc.x, bc.y, bc.image, bc.colSum = nil, nil, nil, nil, nil
	byteConvs.Put(bc)
}

// FrameBytes is about how much memory besides its operands ConvU8S8 takes.
func (pw *PackedConvS8) FrameBytes(cv Conv3D) int {
	cv = cv.norm()
	d, h, w := cv.extent()
	return d*h*w*cv.C*pw.kern.size() + 4*pw.kern.cols
}

// bandBytes is how much of an image goes through all weights before the next part of it does, so that it stays in the second cache.
const bandBytes = 256 << 10

// plan says where inputs lie and how the outputs are cut.
func (bc *byteConv) plan(p *Pool) {
	cv, w := bc.cv, bc.w
	bc.od, bc.oh, bc.ow = cv.OutSize()
	size, ahead := w.kern.size(), cv.C%4 // whether reading whole dwords ends past the image
	if w.depthwise {
		size, ahead = 1, cv.C%w.kern.cols
	} else if w.merged {
		ahead = cv.C * cv.KW % 4
	} else if cv.Group > 1 {
		ahead = cv.C / cv.Group % 4
	}
	bc.pixel = cv.C * size
	bc.framed = size != 1 || bc.flip != 0 || ahead != 0 || cv.framed()
	if bc.depth, bc.height, bc.width = cv.D, cv.H, cv.W; bc.framed {
		bc.depth, bc.height, bc.width = cv.extent()
		bc.frame = grow(bc.frame, (bc.depth*bc.height*bc.width*bc.pixel+3)/4+w.kern.cols)
	}
	bc.offsets = bc.offsets[:0]
	for range w.parts {
		for tap := range w.taps {
			across := w.taps / (cv.KD * cv.KH)
			kd, kh, kw := tap/across/cv.KH, tap/across%cv.KH, tap%across
			bc.offsets = append(bc.offsets, ((kd*cv.DilD*bc.height+kh*cv.DilH)*bc.width+kw*cv.DilW)*bc.pixel)
		}
	}
	if cv.StrideH == 1 && cv.StrideW == 1 && bc.ow == bc.width { // rows follow each other
		bc.oh, bc.ow = 1, bc.oh*bc.ow
	}
	bc.across = ceilDiv(bc.ow, w.kern.rows)
	bc.bands = ceilDiv(bc.depth*bc.height*bc.width*bc.pixel, bandBytes)
	if panels := len(w.colSum) / w.kern.cols; p.Threads() > 1 {
		bc.bands = max(bc.bands, ceilDiv(2*chunksPerThread*p.Threads(), panels))
	}
	bc.bands = min(bc.bands, bc.od*bc.oh*bc.across)
}

// frames fills rows [lo, hi) of the frame.
func (bc *byteConv) frames(lo, hi int) {
	cv := bc.cv
	row := bc.width * cv.C
	left := min(cv.PadLeft, bc.width) * cv.C
	n := min(cv.W, max(0, bc.width-cv.PadLeft)) * cv.C
	for r := lo; r < hi; r++ {
		var src []uint8
		if d, h := r/bc.height-cv.PadFront, r%bc.height-cv.PadTop; d >= 0 && d < cv.D && h >= 0 && h < cv.H {
			src = bc.x[(d*cv.H+h)*cv.W*cv.C:][:n]
		}
		begin := unsafe.Add(unsafe.Pointer(unsafe.SliceData(bc.frame)), r*bc.width*bc.pixel)
		if bc.pixel == cv.C {
			dst := unsafe.Slice((*uint8)(begin), row)
			rest := dst
			if src != nil {
				fill(dst[:left], bc.pad)
				flipBytes(dst[left:], src, bc.flip)
				rest = dst[left+n:]
			}
			fill(rest, bc.pad)
			continue
		}
		dst := unsafe.Slice((*uint16)(begin), row)
		rest := dst
		if src != nil {
			fill(dst[:left], uint16(bc.pad))
			widen(dst[left:], src, bc.flip)
			rest = dst[left+n:]
		}
		fill(rest, uint16(bc.pad))
	}
}

func fill[T any](s []T, v T) {
	for i := range s {
		s[i] = v
	}
}

// tiles makes the panels of bands [lo, hi), those of one band one after the other.
func (bc *byteConv) tiles(lo, hi int) {
	cv, w, kern := bc.cv, bc.w, bc.w.kern
	ws := getWorkspace[float32]()
	defer ws.put()
	t, tiles := &ws.i, kern.tile
	if w.depthwise {
		tiles = kern.depthwise
	}
	t.taps, t.offsets, t.k, t.pixel = len(bc.offsets), unsafe.SliceData(bc.offsets), w.k, cv.StrideW*bc.pixel
	t.rowSum = nil
	panels := len(w.colSum) / kern.cols
	all := bc.od * bc.oh * bc.across
	for q := lo; q < hi; q++ {
		band, panel := q/panels, q%panels
		t.b = at(unsafe.SliceData(w.panels), panel*w.panel())
		bc.columns(t, panel*kern.cols)
		group, col := panel/w.perGroup, panel%w.perGroup*kern.cols
		m, rows, from := col, cv.M, 0
		switch {
		case w.depthwise:
			from = col
		case cv.Group > 1:
			rows = cv.M / cv.Group
			m += group * rows
			from = group * (cv.C / cv.Group) * bc.pixel / cv.C
		}
		cols := min(kern.cols, rows-col)
		src, dst := unsafe.Add(bc.image, from), unsafe.Add(bc.y, m*bc.size)
		for i := band * all / bc.bands; i < (band+1)*all/bc.bands; i++ {
			r, c := i/bc.across, i%bc.across
			begin, end := c*bc.ow/bc.across, (c+1)*bc.ow/bc.across
			t.a = unsafe.Add(src, ((r/bc.oh*cv.StrideD*bc.height+r%bc.oh*cv.StrideH)*bc.width+begin*cv.StrideW)*bc.pixel)
			t.c, t.ldc = unsafe.Add(dst, (r*bc.ow+begin)*cv.M*bc.size), cv.M*bc.size
			kern.run(tiles, t, end-begin, cols, bc.size, ws)
		}
	}
}

// flipBytes sets dst to the bytes of src with some bits turned over.
func flipBytes(dst, src []uint8, flip uint8) {
	copy(dst, src)
	if flip == 0 {
		return
	}
	by := uint64(flip) * 0x0101010101010101
	i := 0
	for ; i+8 <= len(src); i += 8 {
		binary.LittleEndian.PutUint64(dst[i:], binary.LittleEndian.Uint64(dst[i:])^by)
	}
	for ; i < len(src); i++ {
		dst[i] ^= flip
	}
}
