//go:build !noasm

package kernel

// gemmLevels gives the kernels of each level.
var gemmLevels = [numLevels]gemmKernels{
	levelGo: gemmGo,
	levelAVX2: {
		&gemmKernel[float32]{rows: 6, cols: 16, tile: sgemmTilesAVX2, rowsTile: sgemmRowsTilesAVX2, transpose4: transpose4AVX2, copyRows: copyRowsAVX2},
		&gemmKernel[float64]{rows: 6, cols: 8, tile: dgemmTilesAVX2},
	},
	levelAVX512: {
		&gemmKernel[float32]{rows: 12, cols: 32, masked: true, tile: sgemmTilesAVX512, rowsTile: sgemmRowsTilesAVX512,
			transpose4: transpose4AVX2, transpose16: transpose16AVX512, copyRows: copyRowsAVX2},
		&gemmKernel[float64]{rows: 12, cols: 16, masked: true, tile: dgemmTilesAVX512},
	},
}

var copyRowsAVX2 = map[int]func(dst, src *float32, ld, n, panels, stride int){6: copyRows6AVX2, 12: copyRows12AVX2, 16: copyRows16AVX2, 32: copyRows32AVX2}
