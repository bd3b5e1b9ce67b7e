package kernel

import (
	"math"
	"math/rand/v2"
	"testing"
)

// The error of Winograd's convolution stays below 64·2^-24 times the greatest sum of magnitudes in the tile, at every level.
func TestConvWinograd(t *testing.T) {
	defer use(active)
	r := rand.New(rand.NewPCG(1, 2))
	for l := levelGo; l <= best; l++ {
		use(l)
		for _, cv := range []Conv2D{
			{N: 1, C: 16, H: 8, W: 8, M: 16, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
			{N: 2, C: 17, H: 13, W: 70, M: 19, PadTop: 1, PadLeft: 1, PadBottom: 1, PadRight: 1},
			{N: 1, C: 16, H: 9, W: 11, M: 20},
			{N: 1, C: 16, H: 20, W: 33, M: 16, PadTop: 3, PadLeft: 5, PadBottom: 2, PadRight: 7},
			{N: 1, C: 40, H: 31, W: 3, M: 16, PadLeft: 1, PadRight: 1},
		} {
			cv.KH, cv.KW = 3, 3
			cv = cv.norm()
			oh, ow := cv.OutSize()
			x, w, bias := make([]float32, cv.N*cv.C*cv.H*cv.W), make([]float32, cv.M*cv.C*9), make([]float32, cv.M)
			resid, y := make([]float32, cv.N*cv.M*oh*ow), make([]float32, cv.N*cv.M*oh*ow)
			for _, s := range [][]float32{x, w, bias, resid} {
				for i := range s {
					s[i] = float32(r.NormFloat64())
				}
			}
			if l == levelGo {
				var ww winogradWeights
				ww.transform(cv.M, cv.C, w)
				for n := range cv.N {
					convWinograd(NewPool(2), cv, y, x, &ww, &Epilogue{RowBias: bias, Residual: resid, Act: ActRelu}, n)
				}
			}
			b, blocked := blockLanes(), make([]float32, cv.N*ceilDiv(cv.M, blockLanes())*blockLanes()*oh*ow)
			in, residBlocks := toBlocks(x, cv.N, cv.C, cv.H*cv.W, b), toBlocks(resid, cv.N, cv.M, oh*ow, b)
			for n := range cv.N {
				size := len(blocked) / cv.N
				blockWinograd(NewPool(2), cv, blocked[n*size:][:size], in[n*len(in)/cv.N:], PackBlocks(cv, w, bias),
					Epilogue{Residual: residBlocks[n*size:][:size], Act: ActRelu})
			}
			if l != levelGo {
				FromBlocks(nil, y, blocked, cv.N, cv.M, oh*ow)
			} else if bad := compareBlocks(blocked, y, cv.N, cv.M, oh*ow, b, 1e-4); bad != "" {
				t.Errorf("%+v: blocks and planes differ: %s", cv, bad)
			}
			wrong, sizes := make([]float64, len(y)), map[[4]int]float64{}
			tile := func(i int) [4]int {
				return [4]int{i / (cv.M * oh * ow), i / (oh * ow) % cv.M, i / ow % oh / 4, i % ow / 4}
			}
			for i, got := range y {
				n, m, h, c := i/(cv.M*oh*ow), i/(oh*ow)%cv.M, i/ow%oh, i%ow
				sum := float64(bias[m]) + float64(resid[i])
				size := math.Abs(sum)
				for k := range cv.C * 9 {
					ih, iw := h+k%9/3-cv.PadTop, c+k%3-cv.PadLeft
					if ih < 0 || ih >= cv.H || iw < 0 || iw >= cv.W {
						continue
					}
					v := float64(w[m*cv.C*9+k]) * float64(x[((n*cv.C+k/9)*cv.H+ih)*cv.W+iw])
					sum += v
					size += math.Abs(v)
				}
				wrong[i] = math.Abs(float64(got) - max(sum, 0))
				sizes[tile(i)] = max(sizes[tile(i)], size)
			}
			worst := 0.0
			for i, e := range wrong {
				worst = max(worst, e/sizes[tile(i)])
			}
			if !(worst < 64.0/(1<<24)) {
				t.Errorf("level %v, %+v: error %.2g of the magnitudes", l, cv, worst*(1<<24))
			}
		}
	}
}
