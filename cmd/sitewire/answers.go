package main

import (
	"net/netip"

	"sitewire/bgp"
	"sitewire/gateway"
)

// The API's answers as this program reads them. They are package gateway's but for the state of a session, which is a word here: a newer
// daemon may know more of them.

type session struct {
	bgp.Session
	State string `json:"state"`
}

func (s *session) established() bool { return s.State == bgp.Established.String() }

type peer struct {
	gateway.Peer
	Sessions []session `json:"sessions,omitempty"`
}

type peersAnswer struct {
	Peers []peer `json:"peers"`
}

type sessionsAnswer struct {
	ASN      uint32     `json:"asn"`
	RouterID netip.Addr `json:"router_id,omitzero"`
	Sessions []session  `json:"sessions"`
}

type configAnswer struct {
	Config string             `json:"config"`
	Info   gateway.ConfigInfo `json:"info"`
}
