package metrics

import "sitewire/gateway/wg"

// deviceMetrics is the group of what the kernel counts of WireGuard devices, the only counters of packets that there are.
type deviceMetrics struct {
	receivePackets, receiveErrors, receiveDrops    *metric
	transmitPackets, transmitErrors, transmitDrops *metric
}

func newDeviceMetrics(c *catalogue) *deviceMetrics {
	c.group("Tunnels")
	return &deviceMetrics{
		receivePackets:  c.counter("device_receive_packets_total", "Packets that came out of the device's tunnels. Only if asked for, as all packet counters.", "device"),
		receiveErrors:   c.counter("device_receive_errors_total", "Packets that came in and could not be used.", "device"),
		receiveDrops:    c.counter("device_receive_drops_total", "Packets that came out of the device's tunnels and were dropped.", "device"),
		transmitPackets: c.counter("device_transmit_packets_total", "Packets that went into the device's tunnels.", "device"),
		transmitErrors:  c.counter("device_transmit_errors_total", "Packets that could not go into a tunnel, as when no peer owns their destination.", "device"),
		transmitDrops:   c.counter("device_transmit_drops_total", "Packets dropped on their way into the device's tunnels.", "device"),
	}
}

func (d *deviceMetrics) collect(e *emitter, s *scrape) {
	for i := range s.tunnels { // in their order; peers may share a device
		name := s.tunnels[i].Device
		if i > 0 && s.tunnels[i-1].Device == name {
			continue
		}
		if x, ok := s.devices[name]; ok {
			d.device(e, name, &x)
		}
	}
}

func (d *deviceMetrics) device(e *emitter, name string, x *wg.LinkCounters) {
	e.counter(d.receivePackets, x.ReceivePackets, name)
	e.counter(d.receiveErrors, x.ReceiveErrors, name)
	e.counter(d.receiveDrops, x.ReceiveDrops, name)
	e.counter(d.transmitPackets, x.TransmitPackets, name)
	e.counter(d.transmitErrors, x.TransmitErrors, name)
	e.counter(d.transmitDrops, x.TransmitDrops, name)
}
