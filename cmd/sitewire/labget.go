package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// newLabGet is for nodes whose images have no curl.
func newLabGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "get URL",
		Short: "Fetch a page over HTTP and print it, from where it is run",
		Long: `Fetches a page, such as a gateway's metrics, from the node that it is run on: its image has nothing else that could.

  sitewire lab exec pair fra -- sitewire lab get http://127.0.0.1:9587/metrics`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			const patience = 10 * time.Second
			client := http.Client{Timeout: patience, Transport: &http.Transport{Proxy: nil}} // a node has no proxy, whatever the environment says
			req, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, args[0], nil)
			if err != nil {
				return withCode(exitUsage, err)
			}
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, resp.Body.Close()) }()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s answers %s", args[0], resp.Status)
			}
			_, err = io.Copy(a.stdout, resp.Body)
			return err
		},
	}
}
