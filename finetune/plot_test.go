package finetune

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestPlotLosses(t *testing.T) {
	dir := t.TempDir()
	curves := map[string][]Point{"train": {{1, 3}, {2, 2}, {3, 1.5}}, "valid": {{3, 2.5}}}
	for name, begins := range map[string]string{"loss.png": "\x89PNG", "loss.PNG": "\x89PNG", "loss.svg": "<?xml", "loss.pdf": "%PDF"} {
		path := filepath.Join(dir, name)
		if err := PlotLosses(path, "title", curves); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(b, []byte(begins)) {
			t.Errorf("%s begins with %.8q (%v)", name, b, err)
		}
	}
	if err := PlotLosses(filepath.Join(dir, "loss.bogus"), "title", curves); err == nil {
		t.Error("a file of an unknown kind was drawn")
	}
	if err := PlotLosses(filepath.Join(dir, "none", "loss.png"), "title", nil); err == nil {
		t.Error("a folder that is not there was written to")
	}
}
