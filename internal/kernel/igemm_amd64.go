//go:build !noasm

package kernel

import "golang.org/x/sys/cpu"

// igemmLevels gives the kernels of each level. AVX-512 without VNNI takes those of
// AVX2.
var igemmLevels = [numLevels]*igemmKernel{levelGo: igemmGo, levelAVX2: igemmAVX2, levelAVX512: igemmAVX512()}

var igemmAVX2 = &igemmKernel{rows: 6, cols: 16, tile: []func(*itile){nil, igemm1x16AVX2, igemm2x16AVX2, igemm3x16AVX2, igemm4x16AVX2, igemm5x16AVX2, igemm6x16AVX2}}

func igemmAVX512() *igemmKernel {
	if !cpu.X86.HasAVX512VNNI {
		return igemmAVX2
	}
	return &igemmKernel{rows: 12, cols: 32, masked: true, bytes: true, transpose4: transpose4AVX2,
		tile: []func(*itile){nil, igemm1x32AVX512, igemm2x32AVX512, igemm3x32AVX512, igemm4x32AVX512, igemm5x32AVX512, igemm6x32AVX512, igemm7x32AVX512, igemm8x32AVX512, igemm9x32AVX512, igemm10x32AVX512, igemm11x32AVX512, igemm12x32AVX512}}
}
