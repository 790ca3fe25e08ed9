package main

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"sitewire/gateway"
	"sitewire/gateway/config"
	"sitewire/gateway/wg/user"
)

// errNoKernelBackend is what `backend: kernel` gets.
var errNoKernelBackend = errors.New("wireguard.backend: kernel: this version has only the userspace backend; write `backend: userspace`, or leave it at auto")

// newBackends returns the function that chooses a WireGuard backend by its configured name.
func newBackends(log *slog.Logger) func(string) (gateway.Backend, error) {
	userspace := gateway.Backend{Name: string(config.BackendUserspace), Open: user.Options{Logger: log.With("part", "wireguard")}.Opener()}
	var once sync.Once
	return func(name string) (gateway.Backend, error) {
		switch config.Backend(name) {
		case config.BackendUserspace:
			return userspace, nil
		case config.BackendAuto, "":
			once.Do(func() {
				log.Info("WireGuard backend chosen", "backend", userspace.Name, "reason", "auto: this version has no kernel backend")
			})
			return userspace, nil
		case config.BackendKernel:
			return gateway.Backend{}, errNoKernelBackend
		}
		return gateway.Backend{}, fmt.Errorf("wireguard.backend %q is not known", name)
	}
}
