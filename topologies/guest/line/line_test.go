package line

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func written(t *testing.T, records ...Record) []string {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, r := range records {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	return strings.SplitAfter(b.String(), "\n")
}

func readAll(text string, limit int64) (records []Record, err error) {
	for r := NewReader(strings.NewReader(text), limit); ; {
		rec, err := r.Read()
		if err != nil {
			return records, err
		}
		records = append(records, rec)
	}
}

// TestDamageIsSeen takes lines away, cuts and damages them.
func TestDamageIsSeen(t *testing.T) {
	const limit = 10_000
	data := []byte("a\x00\xff\n=== RUN\r\n")
	lines := written(t, Record{Kind: Hello, Text: "7.3"}, Record{Kind: Output, Data: data}, Record{Kind: End, Exit: 1}, Record{Kind: Bye})
	all := strings.Join(lines, "")
	got, err := readAll(all, limit)
	if !errors.Is(err, io.EOF) || len(got) != 4 || !bytes.Equal(got[1].Data, data) || got[2].Exit != 1 {
		t.Fatalf("%v, %+v", err, got)
	}
	for name, c := range map[string]struct{ text, want string }{
		"nothing":  {"", "end after record 0"},
		"one lost": {lines[0] + lines[2] + lines[3], "record 3 follows record 1"},
		"no bye":   {lines[0] + lines[1] + lines[2], "end after record 3"},
		"cut":      {all[:len(all)-5], "the line after record 3 is damaged"},
		"mixed":    {lines[0] + "[    1.0] kernel\n" + lines[1], "the line after record 1 is damaged"},
	} {
		if _, err := readAll(c.text, limit); err == nil || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, err := readAll(all, 50); err == nil || !strings.Contains(err.Error(), "more than it may") {
		t.Errorf("over the limit: %v", err)
	}
}
