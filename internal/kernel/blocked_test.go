package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"unsafe"
)

// The assembly's offsets are those of the fields.
func TestBlockTileOffsets(t *testing.T) {
	want := map[string]uintptr{"src": 0, "dst": 8, "weights": 16, "taps": 24, "bias": 32, "residual": 40, "n": 48, "pixel": 56, "stride": 64,
		"weightStride": 72, "clamp": 80, "lo": 88, "hi": 92, "srcStride": 96, "scratch": 104, "ahead": 112, "rows": 120, "srcRow": 128, "dstRow": 136,
		"srcAt": 144, "dstAt": 152, "outside": 160, "offset": 0, "chans": 8}
	for _, typ := range []reflect.Type{reflect.TypeFor[blockTile](), reflect.TypeFor[blockTap]()} {
		for i := range typ.NumField() {
			if f := typ.Field(i); f.Offset != want[f.Name] {
				t.Errorf("%s is at %d, not %d", f.Name, f.Offset, want[f.Name])
			}
		}
	}
	if size := unsafe.Sizeof(blockTap{}); size != 16 {
		t.Errorf("a tap has %d bytes, not 16", size)
	}
}

// toBlocks is x, N×C×pixels, in blocks, with odd numbers in the lanes past C.
func toBlocks(x []float32, n, c, pix, b int) []float32 {
	cb := ceilDiv(c, b)
	y := make([]float32, n*cb*pix*b)
	for i := range y {
		l, p, q, img := i%b, i/b%pix, i/b/pix%cb, i/b/pix/cb
		if ch := q*b + l; ch < c {
			y[i] = x[(img*c+ch)*pix+p]
		} else {
			y[i] = 7
		}
	}
	return y
}

func TestBlockedConv(t *testing.T) {
	defer use(active)
	r := rand.New(rand.NewPCG(1, 2))
	pools := []*Pool{nil, NewPool(2)}
	random := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		return x
	}
	for l := levelGo; l <= best; l++ {
		use(l)
		b := blockLanes()
		for i, cv := range []Conv2D{
			{N: 1, C: 3, H: 9, W: 11, M: 8, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1, StrideH: 2, StrideW: 2},
			{N: 2, C: 20, H: 5, W: 31, M: 70, KH: 1, KW: 1},
			{N: 1, C: 2 * b, H: 14, W: 14, M: 5 * b, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1, DilH: 2, DilW: 1},
			{N: 1, C: 600, H: 1, W: 1, M: 100, KH: 1, KW: 1},
			{N: 1, C: 40, H: 7, W: 5, M: 17, KH: 5, KW: 2, PadLeft: 3, PadBottom: 2},
			{N: 1, C: 4 * b, H: 6, W: 6, M: 6 * b, KH: 3, KW: 3, Group: 2, PadTop: 1},
			{N: 1, C: 4 * b, H: 6, W: 6, M: 6 * b, KH: 2, KW: 3, Group: 2, StrideW: 2},
			{N: 2, C: 37, H: 10, W: 33, M: 37, KH: 3, KW: 3, Group: 37, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
			{N: 1, C: 16, H: 12, W: 9, M: 16, KH: 5, KW: 5, Group: 16, PadTop: 2, PadLeft: 2, PadBottom: 2, PadRight: 2, StrideH: 2, StrideW: 2},
			{N: 1, C: 16, H: 9, W: 30, M: 16, KH: 5, KW: 5, Group: 16, PadTop: 2, PadLeft: 2, PadBottom: 2, PadRight: 2},
			{N: 1, C: 20, H: 11, W: 29, M: 20, KH: 3, KW: 3, Group: 20, PadTop: 2, PadLeft: 2, PadBottom: 2, PadRight: 2, DilH: 2, DilW: 2},
			{N: 1, C: 20, H: 3, W: 2, M: 20, KH: 5, KW: 5, Group: 20, PadTop: 2, PadLeft: 2, PadBottom: 2, PadRight: 2},
			{N: 1, C: 16, H: 8, W: 1, M: 16, KH: 3, KW: 3, Group: 16, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
			{N: 1, C: 32, H: 40, W: 16, M: 32, KH: 3, KW: 3, Group: 32, PadTop: 1, PadLeft: 1, PadBottom: 4, PadRight: 5, StrideH: 2, StrideW: 2},
			{N: 2, C: 33, H: 16, W: 21, M: 50, KH: 3, KW: 3, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
			{N: 1, C: 128, H: 40, W: 40, M: 64, KH: 3, KW: 3, PadTop: 2, PadLeft: 0, PadBottom: 1, PadRight: 1},
		} {
			cv = cv.norm()
			if !Blockable(cv) {
				t.Fatalf("%+v is not blockable", cv)
			}
			oh, ow := cv.OutSize()
			pix := oh * ow
			x, w, bias := random(cv.N*cv.C*cv.H*cv.W), random(cv.M*cv.C/cv.Group*cv.KH*cv.KW), random(cv.M)
			residual, want := random(cv.N*cv.M*pix), make([]float32, cv.N*cv.M*pix)
			ep := &Epilogue{}
			switch i % 5 {
			case 0:
				ep = &Epilogue{Residual: residual, Act: ActRelu}
			case 1:
				ep = &Epilogue{Residual: residual, Act: ActHardSwish}
			case 2:
				ep = &Epilogue{Act: ActClip, ActAlpha: -0.5, ActBeta: 1.5}
			case 3:
				ep = &Epilogue{Act: ActClip, ActAlpha: float32(math.Inf(-1)), ActBeta: 0.25}
			}
			withBias := *ep
			withBias.RowBias = bias
			Conv(nil, cv, want, x, PackConvWeights(cv, w, false), &withBias)
			bw := PackBlocks(cv, w, bias)
			if ep.Residual != nil {
				ep.Residual = toBlocks(residual, cv.N, cv.M, pix, b)
			}
			for _, planar := range []bool{false, true} {
				if planar && cv.depthwiseBlocks() {
					continue
				}
				in := x
				if !planar {
					in = toBlocks(x, cv.N, cv.C, cv.H*cv.W, b)
				}
				for _, p := range pools {
					got := make([]float32, cv.N*len(bw.bias)*pix)
					BlockedConv(p, cv, got, in, planar, bw, ep)
					tol := 1e-4
					if !planar && cv.blockWinograd() { // whose error TestConvWinograd bounds
						tol = 1e-3
					}
					if bad := compareBlocks(got, want, cv.N, cv.M, pix, b, tol); bad != "" {
						t.Errorf("level %v, %+v, planar %v: %s", l, cv, planar, bad)
					}
				}
			}
		}
	}
}

func compareBlocks(got, want []float32, n, c, pix, b int, tol float64) string {
	cb := ceilDiv(c, b)
	for i, v := range got {
		l, p, q, img := i%b, i/b%pix, i/b/pix%cb, i/b/pix/cb
		ch := q*b + l
		if ch >= c {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return fmt.Sprintf("lane %d of block %d holds %v", l, q, v)
			}
			continue
		}
		w := want[(img*c+ch)*pix+p]
		if !(math.Abs(float64(v-w)) <= tol*(1+math.Abs(float64(w)))) && !(v == w || v != v && w != w) {
			return fmt.Sprintf("image %d, channel %d, pixel %d: %v, want %v", img, ch, p, v, w)
		}
	}
	return ""
}

func TestBlockedPools(t *testing.T) {
	defer use(active)
	r := rand.New(rand.NewPCG(3, 4))
	for l := levelGo; l <= best; l++ {
		use(l)
		b := blockLanes()
		cv := Conv2D{N: 2, C: 19, H: 13, W: 17, M: 19, KH: 3, KW: 3, StrideH: 2, StrideW: 2, PadTop: 1, PadLeft: 1, PadRight: 1}.norm()
		oh, ow := cv.OutSize()
		x := make([]float32, cv.N*cv.C*cv.H*cv.W)
		for i := range x {
			x[i] = float32(r.NormFloat64()) - 5
		}
		x[40] = float32(math.NaN())
		want, means := make([]float32, cv.N*cv.M*oh*ow), make([]float32, cv.N*cv.C)
		for i := range want {
			top := float32(math.Inf(-1))
			for k := range 9 {
				h, w := i/ow%oh*2+k/3-1, i%ow*2+k%3-1
				if h >= 0 && h < cv.H && w >= 0 && w < cv.W {
					top = max(top, x[(i/(oh*ow)*cv.H+h)*cv.W+w])
				}
			}
			want[i] = top
		}
		pix := cv.H * cv.W
		for i := range means {
			sum := 0.0
			for _, v := range x[i*pix : (i+1)*pix] {
				sum += float64(v)
			}
			means[i] = float32(sum / float64(pix))
		}
		in := toBlocks(x, cv.N, cv.C, pix, b)
		got := make([]float32, cv.N*ceilDiv(cv.C, b)*b*oh*ow)
		BlockedMaxPool(NewPool(2), cv, got, in)
		if bad := compareBlocks(got, want, cv.N, cv.C, oh*ow, b, 0); bad != "" {
			t.Errorf("level %v, maxima: %s", l, bad)
		}
		got = make([]float32, cv.N*ceilDiv(cv.C, b)*b)
		BlockedMean(nil, got, in, pix)
		if bad := compareBlocks(got, means, cv.N, cv.C, 1, b, 1e-5); bad != "" {
			t.Errorf("level %v, means: %s", l, bad)
		}
	}
}
