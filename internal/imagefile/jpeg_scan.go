package imagefile

import "errors"

var errCode = errors.New("the entropy-coded data makes no sense")

// bitReader reads the entropy-coded data of a JPEG up to the next marker, and zeros beyond it.
type bitReader struct {
	data    []byte
	pos     int
	acc     uint64 // its lowest n bits are next
	n       int
	lacking int // how many of the bits read into acc were not there
}

func (r *bitReader) fill() {
	for r.n <= 48 {
		r.acc <<= 8
		r.n += 8
		switch {
		case r.pos >= len(r.data):
			r.lacking += 8
		case r.data[r.pos] != 0xff:
			r.acc |= uint64(r.data[r.pos])
			r.pos++
		case r.pos+1 < len(r.data) && r.data[r.pos+1] == 0:
			r.acc |= 0xff
			r.pos += 2
		default:
			r.lacking += 8
		}
	}
}

// bits reads up to 16 bits.
func (r *bitReader) bits(n int) int32 {
	if r.n < n {
		r.fill()
	}
	r.n -= n
	return int32(r.acc >> r.n & (1<<n - 1))
}

// signed reads a number of n bits, of which the lower half of the range stands for negative numbers.
func (r *bitReader) signed(n int) int32 {
	v := r.bits(n)
	if n > 0 && v < 1<<(n-1) {
		v -= 1<<n - 1
	}
	return v
}

// overrun reports whether bits were used that were not there.
func (r *bitReader) overrun() bool { return r.n < r.lacking }

func (r *bitReader) align() { r.acc, r.n, r.lacking = 0, 0, 0 }

// huffman is a code by lengths: peeked at as 16 bits, those of length l and less are below limit[l].
type huffman struct {
	limit  [17]int32
	offset [17]int32 // added to a code of that length, it is the symbol's place
	symbol []byte
}

func newHuffman(counts, symbols []byte) (*huffman, error) {
	h := &huffman{symbol: symbols}
	code, place := int32(0), int32(0)
	for l := 1; l <= 16; l++ {
		h.offset[l] = place - code
		code += int32(counts[l-1])
		place += int32(counts[l-1])
		if code > 1<<l {
			return nil, errMarker
		}
		h.limit[l] = code << (16 - l)
		code <<= 1
	}
	return h, nil
}

// next reads a symbol, -1 where no code fits.
func (r *bitReader) next(h *huffman) int {
	if r.n < 16 {
		r.fill()
	}
	v := int32(r.acc >> (r.n - 16) & 0xffff)
	for l := 1; l <= 16; l++ {
		if v < h.limit[l] {
			r.n -= l
			return int(h.symbol[h.offset[l]+v>>(16-l)])
		}
	}
	return -1
}

// jpegScan is what a scan is about: coefficients first to last of the blocks, and, in progressive images, the bits from high to low.
type jpegScan struct {
	*jpegReader
	first, last int
	high, low   int
	endOfBand   int32 // blocks that are yet without coefficients
}

func (d *jpegReader) scan(p []byte) error {
	if d.components == nil || len(p) < 4 || len(p) != 4+2*int(p[0]) || d.scans == maxScans {
		return errMarker
	}
	d.scans++
	var in []*jpegComponent
	for q := p[1 : len(p)-3]; len(q) > 0; q = q[2:] {
		var c *jpegComponent
		for _, k := range d.components {
			if k.id == q[0] {
				c = k
			}
		}
		if c == nil || q[1]>>4 > 3 || q[1]&15 > 3 {
			return errMarker
		}
		c.dc, c.ac = d.huff[0][q[1]>>4], d.huff[1][q[1]&15]
		if c.quant == nil {
			c.quant = d.quant[c.table]
		}
		if c.quant == nil {
			return errors.New("a component has no quantization table")
		}
		in = append(in, c)
	}
	if len(in) == 0 {
		return errMarker
	}
	p = p[len(p)-3:]
	s := &jpegScan{jpegReader: d, last: 63}
	if d.progressive {
		s.first, s.last, s.high, s.low = int(p[0]), int(p[1]), int(p[2]>>4), int(p[2]&15)
		if s.first > s.last || s.last > 63 || s.first == 0 && s.last > 0 || s.first > 0 && len(in) > 1 || s.low > 13 || s.high > 0 && s.high != s.low+1 {
			return errMarker
		}
	}
	for _, c := range in {
		if s.first == 0 && s.high == 0 && c.dc == nil || s.last > 0 && c.ac == nil {
			return errors.New("a component has no code")
		}
	}
	d.align()
	err := s.mcus(in)
	d.align()
	return err
}

// mcus reads the scan's MCUs. Those of one component are its blocks, without what fills up the last MCU of the image.
func (s *jpegScan) mcus(in []*jpegComponent) error {
	across, down := ceilDiv(s.width, 8*s.hmax), ceilDiv(s.height, 8*s.vmax)
	if len(in) == 1 {
		across, down = ceilDiv(in[0].width, 8), ceilDiv(in[0].height, 8)
	}
	for i := range across * down {
		if i == 0 || s.restart > 0 && i%s.restart == 0 {
			if i > 0 {
				if err := s.resume(i/s.restart - 1); err != nil {
					return err
				}
			}
			s.endOfBand = 0
			for _, c := range in {
				c.pred = 0
			}
		}
		mx, my := i%across, i/across
		for _, c := range in {
			h, v := c.h, c.v
			if len(in) == 1 {
				h, v = 1, 1
			}
			for b := range h * v {
				at := (my*v+b/h)*c.stride + mx*h + b%h
				if !s.block(c, (*[64]int16)(c.coef[64*at:])) || s.overrun() {
					return errCode
				}
			}
		}
	}
	return nil
}

// resume reads the restart marker of that number.
func (s *jpegScan) resume(number int) error {
	s.align()
	if s.pos+1 >= len(s.data) || s.data[s.pos] != 0xff || s.data[s.pos+1] != 0xd0+byte(number%8) {
		return errCode
	}
	s.pos += 2
	return nil
}

// block reads what the scan has of a block.
func (s *jpegScan) block(c *jpegComponent, b *[64]int16) bool {
	if s.first == 0 {
		if s.high > 0 {
			b[0] |= int16(s.bits(1) << s.low)
		} else {
			size := s.next(c.dc)
			if size < 0 || size > 15 {
				return false
			}
			c.pred += s.signed(size)
			b[0] = int16(c.pred << s.low)
		}
	}
	switch {
	case s.last == 0:
		return true
	case s.high > 0:
		return s.refine(c, b)
	}
	if s.endOfBand > 0 {
		s.endOfBand--
		return true
	}
	for k := max(1, s.first); k <= s.last; k++ {
		symbol := s.next(c.ac)
		run, size := symbol>>4, symbol&15
		switch {
		case symbol < 0:
			return false
		case size > 0:
			if k += run; k > s.last {
				return false
			}
			b[zigzag[k]] = int16(s.signed(size) << s.low)
		case run == 15:
			k += 15
		case run > 0 && !s.progressive:
			return false
		default:
			s.endOfBand = 1<<run + s.bits(run) - 1
			return true
		}
	}
	return true
}

// refine reads one more bit of the coefficients that are not zero, and those that become so.
func (s *jpegScan) refine(c *jpegComponent, b *[64]int16) bool {
	bit := int16(1) << s.low
	// pass goes over zeros and refines what is none of them, and stops at the zero after that.
	pass := func(k, zeros int) int {
		for ; k <= s.last; k++ {
			switch v := &b[zigzag[k]]; {
			case *v == 0:
				if zeros == 0 {
					return k
				}
				zeros--
			case s.bits(1) == 0:
			case *v > 0:
				*v += bit
			default:
				*v -= bit
			}
		}
		return k
	}
	k := s.first
	for k <= s.last && s.endOfBand == 0 {
		symbol := s.next(c.ac)
		run, size := symbol>>4, symbol&15
		var value int16
		switch {
		case symbol < 0 || size > 1:
			return false
		case size == 1:
			if value = -bit; s.bits(1) == 1 {
				value = bit
			}
		case run < 15:
			s.endOfBand = 1<<run + s.bits(run)
			continue
		}
		if k = pass(k, run); value != 0 {
			if k > s.last {
				return false
			}
			b[zigzag[k]] = value
		}
		k++
	}
	if s.endOfBand > 0 {
		pass(k, 64)
		s.endOfBand--
	}
	return true
}
