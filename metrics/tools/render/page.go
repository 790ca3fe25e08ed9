package main

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"os"
	"path/filepath"

	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	vgdraw "gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"sitewire/metrics/tools/board"
)

// Size of a cell of Grafana's grid, in pixels.
const (
	cellWidth  = 60
	cellHeight = 36
)

// drawnBoard is a board of which there are images.
type drawnBoard struct {
	uid, title string
	panels     []drawnPanel
}

// drawnPanel is a panel of which there is an image.
type drawnPanel struct {
	row, title, file string
	empty            bool
	x, y, w, h       int // in pixels, within the row
	image            image.Image
}

func drawBoard(ctx context.Context, p *prometheus, b *board.Board, v view, out string) (drawnBoard, error) {
	drawn := drawnBoard{uid: *b.Uid, title: *b.Title}
	values, err := p.variables(ctx, b, v)
	if err != nil {
		return drawn, err
	}
	for i := range b.Flat {
		panel := &b.Flat[i]
		answers, err := p.ask(ctx, panel, values, v, int(panel.GridPos.W)*cellWidth)
		if err != nil {
			return drawn, err
		}
		pg := newPage(int(panel.GridPos.W)*cellWidth, int(panel.GridPos.H)*cellHeight)
		pg.frame(panel.Name())
		empty, err := pg.panel(panel, answers, v)
		if err != nil {
			return drawn, fmt.Errorf("panel %q: %w", panel.Name(), err)
		}
		file := fmt.Sprintf("%s-%02d.png", drawn.uid, *panel.Id)
		if err := writePNG(filepath.Join(out, file), pg.image()); err != nil {
			return drawn, err
		}
		drawn.panels = append(drawn.panels, drawnPanel{
			row: panel.Row, title: panel.Name(), file: file, empty: empty, image: pg.image(),
			x: int(panel.GridPos.X) * cellWidth, y: int(panel.GridPos.Y) * cellHeight, w: pg.w, h: pg.h,
		})
	}
	return drawn, drawn.rows(out)
}

// rows writes one image for each row of the board, with the panels where they are on the page.
func (d *drawnBoard) rows(out string) error {
	for i, n := 0, 0; i < len(d.panels); n++ {
		row, top, bottom, j := d.panels[i].row, d.panels[i].y, 0, i
		for ; j < len(d.panels) && d.panels[j].row == row; j++ {
			bottom = max(bottom, d.panels[j].y+d.panels[j].h)
		}
		img := image.NewRGBA(image.Rect(0, 0, 24*cellWidth, bottom-top))
		draw.Draw(img, img.Bounds(), image.NewUniform(color.Gray{230}), image.Point{}, draw.Src)
		for _, p := range d.panels[i:j] {
			draw.Draw(img, image.Rect(p.x, p.y-top, p.x+p.w, p.y-top+p.h), p.image, image.Point{}, draw.Src)
		}
		if err := writePNG(filepath.Join(out, fmt.Sprintf("row-%s-%d.png", d.uid, n+1)), img); err != nil {
			return err
		}
		i = j
	}
	return nil
}

func writePNG(file string, img image.Image) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(png.Encode(f, img), f.Close())
}

var index = template.Must(template.New("index").Parse(`<!doctype html>
<meta charset="utf-8"><title>Dashboards</title>
<style>body{font-family:sans-serif;background:#e6e6e6} figure{display:inline-block;margin:4px} .empty{opacity:.5}</style>
{{range .}}<h1>{{.Title}}</h1>
{{$row := ""}}{{range .Panels}}{{if ne $row .Row}}{{$row = .Row}}<h2>{{.Row}}</h2>
{{end}}<figure{{if .Empty}} class="empty"{{end}}><img src="{{.File}}" alt="{{.Title}}"></figure>
{{end}}{{end}}`))

func writeIndex(file string, boards []drawnBoard) error {
	type panel struct {
		Row, Title, File string
		Empty            bool
	}
	type page struct {
		Title  string
		Panels []panel
	}
	var pages []page
	for _, b := range boards {
		p := page{Title: b.title}
		for _, x := range b.panels {
			p.Panels = append(p.Panels, panel{x.row, x.title, x.file, x.empty})
		}
		pages = append(pages, p)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(index.Execute(f, pages), f.Close())
}

// page is an image with its origin in the upper left corner, in pixels.
type page struct {
	w, h   int
	img    *vgimg.Canvas
	canvas vgdraw.Canvas
}

func newPage(w, h int) *page {
	img := vgimg.NewWith(vgimg.UseWH(vg.Length(w), vg.Length(h)), vgimg.UseDPI(72), vgimg.UseBackgroundColor(color.White))
	return &page{w: w, h: h, img: img, canvas: vgdraw.New(img)}
}

func (p *page) image() image.Image { return p.img.Image() }

// rect fills a rectangle.
func (p *page) rect(x, y, w, h float64, c color.Color) {
	var path vg.Path
	top := float64(p.h) - y
	path.Move(vg.Point{X: vg.Length(x), Y: vg.Length(top)})
	path.Line(vg.Point{X: vg.Length(x + w), Y: vg.Length(top)})
	path.Line(vg.Point{X: vg.Length(x + w), Y: vg.Length(top - h)})
	path.Line(vg.Point{X: vg.Length(x), Y: vg.Length(top - h)})
	path.Close()
	p.canvas.SetColor(c)
	p.canvas.Fill(path)
}

func style(size float64, c color.Color) text.Style {
	return text.Style{
		Color: c, Font: font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, vg.Length(size)), YAlign: text.YTop,
		Handler: text.Plain{Fonts: font.DefaultCache},
	}
}

// text writes a line with its upper left corner at x, y; what does not fit into the width is cut off. It returns the width.
func (p *page) text(x, y, width, size float64, c color.Color, s string) float64 {
	sty := style(size, c)
	for cut := []rune(s); float64(sty.Width(s)) > width && len(cut) > 1; s = string(cut) + "…" {
		cut = cut[:len(cut)-1]
	}
	p.canvas.FillText(sty, vg.Point{X: vg.Length(x), Y: vg.Length(float64(p.h) - y)}, s)
	return float64(sty.Width(s))
}

// frame draws the border and the title.
func (p *page) frame(title string) {
	p.rect(0, 0, float64(p.w), float64(p.h), color.Gray{200})
	p.rect(1, 1, float64(p.w-2), float64(p.h-2), color.White)
	p.text(8, 6, float64(p.w-16), 13, color.Black, title)
}

// colours of Grafana's names.
var colours = map[string]color.Color{
	"green": color.RGBA{0x73, 0xbf, 0x69, 255}, "red": color.RGBA{0xf2, 0x49, 0x5c, 255}, "orange": color.RGBA{0xff, 0x98, 0x30, 255},
	"yellow": color.RGBA{0xfa, 0xde, 0x2a, 255}, "blue": color.RGBA{0x57, 0x94, 0xf2, 255}, "purple": color.RGBA{0xb8, 0x77, 0xd9, 255},
	"transparent": color.White,
}

var palette = []color.Color{
	color.RGBA{0x37, 0x87, 0x2d, 255}, color.RGBA{0xe0, 0x2f, 0x44, 255}, color.RGBA{0x1f, 0x60, 0xc4, 255}, color.RGBA{0xfa, 0x64, 0x00, 255},
	color.RGBA{0x8f, 0x3b, 0xb8, 255}, color.RGBA{0x00, 0x8b, 0x8b, 255}, color.RGBA{0xb8, 0x86, 0x0b, 255}, color.RGBA{0xc7, 0x15, 0x85, 255},
	color.RGBA{0x55, 0x6b, 0x2f, 255}, color.RGBA{0x46, 0x82, 0xb4, 255}, color.RGBA{0x8b, 0x45, 0x13, 255}, color.RGBA{0x70, 0x80, 0x90, 255},
}
