package kernel

// Names and numbers of include/uapi/linux/wireguard.h, as of Linux 6.18. The header has no way to ask for peers without their allowed-IPs.
const (
	familyName    = "wireguard"
	familyVersion = 1
	linkKind      = "wireguard"

	cmdGetDevice = 0
	cmdSetDevice = 1

	deviceIndex      = 1 // u32
	deviceName       = 2 // string
	devicePrivateKey = 3
	devicePublicKey  = 4
	devicePort       = 6 // u16
	deviceMark       = 7 // u32
	devicePeers      = 8 // array of peers

	peerPublicKey    = 1
	peerPresharedKey = 2
	peerFlags        = 3 // u32
	peerEndpoint     = 4 // sockaddr_in or sockaddr_in6
	peerKeepalive    = 5 // u16, seconds
	peerHandshake    = 6 // __kernel_timespec
	peerReceived     = 7 // u64
	peerSent         = 8 // u64
	peerAllowedIPs   = 9 // array of allowed-IPs

	peerRemove     = 1 << 0 // WGPEER_F_REMOVE_ME
	peerUpdateOnly = 1 << 2 // WGPEER_F_UPDATE_ONLY

	allowedFamily = 1 // u16
	allowedAddr   = 2
	allowedBits   = 3 // u8
	allowedFlags  = 4 // u32, since Linux 6.16

	allowedRemove = 1 << 0 // WGALLOWEDIP_F_REMOVE_ME
)

// Layout of netlink: everything in host order, everything aligned to four bytes.
const (
	headerLen     = 16 // struct nlmsghdr
	genlHeaderLen = 4  // struct genlmsghdr
	attrLen       = 4  // struct nlattr
	nested        = 1 << 15
	typeMask      = 1<<14 - 1
)

func align(n int) int { return (n + 3) &^ 3 }
