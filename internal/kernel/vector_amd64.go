//go:build !noasm

package kernel

import "golang.org/x/sys/cpu"

var vectorLevels = [numLevels]vectorKernels{levelAVX2: vectorAVX2, levelAVX512: vectorsAVX512()}

func vectorsAVX512() vectorKernels {
	v := vectorAVX512
	if !cpu.X86.HasAVX512VBMI {
		v.mapBytes = nil
	}
	return v
}

var blockLevels = [numLevels]blockKernels{levelGo: blockGo, levelAVX2: blockAVX2, levelAVX512: blockAVX512}
