package peers

import (
	"context"
	"os"
	"path/filepath"

	"sitewire/topologies/netns"
)

// StayRTR is a running stayrtr: an RTR cache over a JSON file.
type StayRTR struct{ *Daemon }

const payloadsFile = "roa.json"

// StartStayRTR runs stayrtr on an address (host:port) over a file with these payloads, which it reads every second. It
// returns before stayrtr listens: whoever asks a cache tries again.
func StartStayRTR(ctx context.Context, ns *netns.NS, name, address, payloads string) (*StayRTR, error) {
	d, err := Start(ctx, ns, Spec{
		Name:    name,
		Program: "stayrtr",
		Args: []string{
			"-bind", address, "-cache", "{dir}/" + payloadsFile, "-checktime=false", "-refresh", "1",
			"-rtr.refresh", "5", "-rtr.retry", "5", "-rtr.expire", "600",
		},
		Files: map[string]string{payloadsFile: payloads},
	})
	if err != nil {
		return nil, err
	}
	return &StayRTR{d}, nil
}

// Replace gives it other payloads.
func (s *StayRTR) Replace(payloads string) error {
	path := filepath.Join(s.dir, payloadsFile)
	if err := os.WriteFile(path+"~", []byte(payloads), 0o600); err != nil {
		return err
	}
	return os.Rename(path+"~", path)
}
