package pages

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// Huge asks that large pages hold b, also where it is in use already. What is read from end to end comes half as fast again from them as from
// small ones, since the processor looks ahead within a page only.
func Huge(b []byte) {
	part := within(b, hugePage)
	if len(part) == 0 {
		return
	}
	unix.Madvise(part, unix.MADV_HUGEPAGE) // a system without large pages refuses, and that is all right
	for ; len(part) > 0; part = part[hugePage:] {
		unix.Madvise(part[:hugePage], unix.MADV_COLLAPSE) // one by one, since a page that cannot ends the call
	}
}

// Drop lets go of the pages of b that come from a file and were never written to, for instance by a reader that has made a copy: they
// take no memory of this process until they are read again. Other pages of b stay as they are. Nobody may write to b meanwhile.
func Drop(b []byte) {
	size := os.Getpagesize()
	part := within(b, size)
	if len(part) == 0 {
		return
	}
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return
	}
	defer f.Close()
	const (
		present = 1 << 63
		file    = 1 << 61 // and not a copy of a page of it
	)
	var entries [8 << 10]byte
	for len(part) > 0 {
		n := min(len(part)/size, len(entries)/8)
		if _, err := f.ReadAt(entries[:8*n], int64(addressOf(part)/uintptr(size)*8)); err != nil {
			return
		}
		for i := 0; i < n; {
			first := i
			for i < n && binary.NativeEndian.Uint64(entries[8*i:])&(present|file) == present|file {
				i++
			}
			if i > first {
				unix.Madvise(part[first*size:i*size], unix.MADV_DONTNEED)
			} else {
				i++
			}
		}
		part = part[n*size:]
	}
}
