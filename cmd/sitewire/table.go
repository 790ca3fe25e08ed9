package main

import (
	"io"
	"strings"
	"unicode/utf8"
)

// column of a table. Numbers stand on the right.
type column struct {
	head  string
	right bool
}

// cell of a table.
type cell struct {
	text  string
	style style
}

// table prints rows under UPPERCASE headers. Nothing is ever cut off: the output is for grep and awk too.
type table struct {
	columns []column
	rows    [][]cell
}

func newTable(columns ...column) *table { return &table{columns: columns} }

func left(head string) column  { return column{head: head} }
func right(head string) column { return column{head: head, right: true} }

// text makes a plain cell; what is empty is shown as "-", so that every row has as many words as it has columns.
func text(s string) cell { return cell{text: s} }

func (t *table) row(cells ...cell) { t.rows = append(t.rows, cells) }

// write lays the table out first and colours it afterwards, so that escapes do not count as width.
func (t *table) write(w io.Writer, p painter, headers bool) error {
	all := t.rows
	if headers {
		head := make([]cell, len(t.columns))
		for i, c := range t.columns {
			head[i] = cell{c.head, header}
		}
		all = append([][]cell{head}, all...)
	}
	width := make([]int, len(t.columns))
	for _, row := range all {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(shown(c)))
		}
	}
	var b strings.Builder
	for _, row := range all {
		gap := ""
		for i, c := range row {
			s := shown(c)
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(s))
			b.WriteString(gap)
			gap = "  "
			if t.columns[i].right {
				b.WriteString(pad)
				pad = ""
			}
			b.WriteString(p.paint(c.style, s))
			if i < len(row)-1 { // no blanks at the end of a line
				b.WriteString(pad)
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func shown(c cell) string {
	if c.text == "" {
		return "-"
	}
	return c.text
}
