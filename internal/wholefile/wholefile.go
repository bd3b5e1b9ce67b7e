// Package wholefile writes files that are either there in full or not at all.
package wholefile

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Write has fill write a new file beside path, and renames it to path once all of it is on
// disk. On an error the new file is removed and what was at path stays as it was. A link is followed; a
// path that is no regular file (a pipe, /dev/stdout) is written to directly.
func Write(path string, fill func(io.Writer) error) (err error) {
	mode := os.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		if !info.Mode().IsRegular() {
			return writeTo(path, fill)
		}
		mode = info.Mode().Perm()
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return err
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err = buffered(f, fill); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// RemoveAbandoned removes the new files beside path of those that were killed while they wrote it. No one may be writing it.
func RemoveAbandoned(path string) error {
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	for _, f := range files {
		number, ok := strings.CutPrefix(f.Name(), "."+filepath.Base(path)+"-")
		if ok && f.Type().IsRegular() && number != "" && strings.Trim(number, "0123456789") == "" {
			if err := os.Remove(filepath.Join(filepath.Dir(path), f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeTo(path string, fill func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err := buffered(f, fill); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func buffered(w io.Writer, fill func(io.Writer) error) error {
	b := bufio.NewWriterSize(w, 1<<16)
	if err := fill(b); err != nil {
		return err
	}
	return b.Flush()
}
