//go:build !noasm

package kernel

var vectorLevels = [numLevels]vectorKernels{levelAVX2: vectorAVX2, levelAVX512: vectorAVX512}
