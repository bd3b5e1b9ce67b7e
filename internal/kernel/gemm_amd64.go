//go:build !noasm

package kernel

// gemmLevels gives the kernels of each level.
var gemmLevels = [numLevels]gemmKernels{
	levelGo: gemmGo,
	levelAVX2: {
		f32: &gemmKernel[float32]{
			rows: 6, cols: 16, masked: false,
			tile:       []func(*tile[float32]){nil, sgemm1x16AVX2, sgemm2x16AVX2, sgemm3x16AVX2, sgemm4x16AVX2, sgemm5x16AVX2, sgemm6x16AVX2},
			transpose4: transpose4AVX2,
			copyRows:   copyRowsAVX2,
		},
		f64: &gemmKernel[float64]{
			rows: 6, cols: 8, masked: false,
			tile: []func(*tile[float64]){nil, dgemm1x8AVX2, dgemm2x8AVX2, dgemm3x8AVX2, dgemm4x8AVX2, dgemm5x8AVX2, dgemm6x8AVX2},
		},
	},
	levelAVX512: {
		f32: &gemmKernel[float32]{
			rows: 12, cols: 32, masked: true,
			tile:       []func(*tile[float32]){nil, sgemm1x32AVX512, sgemm2x32AVX512, sgemm3x32AVX512, sgemm4x32AVX512, sgemm5x32AVX512, sgemm6x32AVX512, sgemm7x32AVX512, sgemm8x32AVX512, sgemm9x32AVX512, sgemm10x32AVX512, sgemm11x32AVX512, sgemm12x32AVX512},
			transpose4: transpose4AVX2,
			copyRows:   copyRowsAVX2,
		},
		f64: &gemmKernel[float64]{
			rows: 12, cols: 16, masked: true,
			tile: []func(*tile[float64]){nil, dgemm1x16AVX512, dgemm2x16AVX512, dgemm3x16AVX512, dgemm4x16AVX512, dgemm5x16AVX512, dgemm6x16AVX512, dgemm7x16AVX512, dgemm8x16AVX512, dgemm9x16AVX512, dgemm10x16AVX512, dgemm11x16AVX512, dgemm12x16AVX512},
		},
	},
}

var copyRowsAVX2 = map[int]func(dst, src *float32, ld, n int){6: copyRows6AVX2, 12: copyRows12AVX2, 16: copyRows16AVX2, 32: copyRows32AVX2}
