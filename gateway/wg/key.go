package wg

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
)

// KeySize is the length in bytes of every WireGuard key (WireGuard paper, section 5.4).
const KeySize = 32

// ErrKey is the error that every malformed key wraps. It never contains the text of the key.
var ErrKey = errors.New("not a WireGuard key: want 44 characters of base64 (32 bytes), as `sitewire genkey` or `wg genkey` print it")

// PublicKey is a Curve25519 public key: the identity of a peer. It is no secret and prints as base64.
type PublicKey [KeySize]byte

// ParsePublicKey reads the base64 form that wg(8) prints.
func ParsePublicKey(s string) (PublicKey, error) {
	b, err := parse(s)
	return PublicKey(b), err
}

func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// Hex is the form of the cross-platform userspace API (wireguard.com/xplatform).
func (k PublicKey) Hex() string { return hex.EncodeToString(k[:]) }

// IsZero reports whether no key is set.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// MarshalText implements encoding.TextMarshaler.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *PublicKey) UnmarshalText(text []byte) error {
	p, err := ParsePublicKey(string(text))
	if err == nil {
		*k = p
	}
	return err
}

// Secret is a private or preshared key. Every way of printing it gives "***"; only Reveal and Hex show it,
// and only the code that writes a key file or programs a device may call them.
type Secret [KeySize]byte

// hidden is what a set Secret prints as, in every format.
const hidden = "***"

// NewPrivateKey makes a clamped Curve25519 private key from the system's random source.
func NewPrivateKey() (Secret, error) {
	s, err := NewPresharedKey()
	s[0] &= 248
	s[31] = s[31]&127 | 64
	return s, err
}

// NewPresharedKey makes 32 random bytes.
func NewPresharedKey() (Secret, error) {
	var s Secret
	_, err := rand.Read(s[:])
	return s, err
}

// ParseSecret reads the base64 form that wg(8) prints. The error does not quote the text.
func ParseSecret(s string) (Secret, error) {
	b, err := parse(s)
	return Secret(b), err
}

// Public returns the public key of a private key.
func (s Secret) Public() PublicKey {
	k, err := ecdh.X25519().NewPrivateKey(s[:])
	if err != nil { // only for a wrong length, which the type excludes
		panic(err)
	}
	return PublicKey(k.PublicKey().Bytes())
}

// IsZero reports whether no key is set.
func (s Secret) IsZero() bool { return s == Secret{} }

// Equal compares in constant time.
func (s Secret) Equal(o Secret) bool { return subtle.ConstantTimeCompare(s[:], o[:]) == 1 }

// Reveal returns the base64 form, for key files.
func (s Secret) Reveal() string { return base64.StdEncoding.EncodeToString(s[:]) }

// Hex returns the form of the userspace API, for devices.
func (s Secret) Hex() string { return hex.EncodeToString(s[:]) }

func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return hidden
}

// Format implements fmt.Formatter, so that no verb prints the bytes.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// MarshalText implements encoding.TextMarshaler with the hidden form.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue implements slog.LogValuer with the hidden form.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

func parse(s string) (b [KeySize]byte, err error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) != KeySize {
		return b, ErrKey
	}
	return [KeySize]byte(raw), nil
}
