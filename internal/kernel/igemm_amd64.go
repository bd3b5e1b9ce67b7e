//go:build !noasm

package kernel

import "golang.org/x/sys/cpu"

// igemmLevels gives the kernels of each level. AVX-512 without VNNI takes those of
// AVX2.
var igemmLevels = [numLevels]*igemmKernel{levelGo: igemmGo, levelAVX2: igemmAVX2, levelAVX512: igemmAVX512()}

var igemmAVX2 = &igemmKernel{rows: 6, cols: 16, tile: igemmTilesAVX2, depthwise: idepthwiseTilesAVX2}

func igemmAVX512() *igemmKernel {
	if !cpu.X86.HasAVX512VNNI {
		return igemmAVX2
	}
	return &igemmKernel{rows: 14, cols: 32, masked: true, bytes: true, tile: igemmTilesAVX512, depthwise: idepthwiseTilesAVX512}
}
