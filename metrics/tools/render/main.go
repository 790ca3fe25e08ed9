// Command render draws the dashboards from a real Prometheus' data, where there is no Grafana to look at them.
//
// Job: ask what Grafana would ask, apply the transformations that Grafana would apply, and draw every panel well enough to judge it: is
// there data, is the unit right, can the legend be told apart, does the table say what it should.
// Owner: nothing is kept. Inputs: dashboard JSON, Prometheus' HTTP API.
// Outputs: a PNG for each panel and each row, index.html, and a line for each panel without data.
// Invariants: variables, intervals and steps are computed as Grafana does; what it draws is an approximation, never an invention.
//
//	go run ./render -prometheus http://127.0.0.1:9090 -range 15m -out /tmp/dashboards
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"sitewire/metrics/tools/board"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("render", flag.ContinueOnError)
	address := flags.String("prometheus", "http://127.0.0.1:9090", "address of Prometheus")
	folder := flags.String("dashboards", "../grafana", "folder with dashboard JSON")
	out := flags.String("out", "", "folder for the images")
	span := flags.Duration("range", time.Hour, "time to show, until now")
	scrape := flags.Duration("scrape", 15*time.Second, "scrape interval, as in Grafana's data source")
	end := flags.Int64("end", 0, "Unix time of the end of the time to show; 0 is now")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *out == "" {
		return errors.New("-out names no folder for the images")
	}
	files, err := filepath.Glob(filepath.Join(*folder, "*.json"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no dashboards in %s: set -dashboards", *folder)
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	until := time.Now()
	if *end != 0 {
		until = time.Unix(*end, 0)
	}
	p := &prometheus{address: *address}
	var boards []drawnBoard
	for _, file := range files {
		b, err := board.Load(file)
		if err != nil {
			return err
		}
		drawn, err := drawBoard(ctx, p, b, view{from: until.Add(-*span), to: until, scrape: *scrape}, *out)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, panel := range drawn.panels {
			if panel.empty {
				fmt.Fprintf(stdout, "no data: %s: %s / %s\n", drawn.uid, panel.row, panel.title)
			}
		}
		boards = append(boards, drawn)
	}
	return writeIndex(filepath.Join(*out, "index.html"), boards)
}
