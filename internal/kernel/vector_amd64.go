//go:build !noasm

package kernel

var vectorLevels = [numLevels]vectorKernels{levelAVX2: vectorAVX2, levelAVX512: vectorAVX512}

var blockLevels = [numLevels]blockKernels{levelGo: blockGo, levelAVX2: blockAVX2, levelAVX512: blockAVX512}
