package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sitewire/bgp/policy"
	"sitewire/gateway/wg"
)

// Patterns of names. Names appear in metrics, file names and command lines.
var (
	namePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	devicePattern = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)
	hostPattern   = regexp.MustCompile(`^(?i:[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)(\.(?i:[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?))*\.?$`)
)

// ValidName tells whether a site, a peer or a neighbour may have the name.
func ValidName(s string) bool { return namePattern.MatchString(s) }

// ValidDevice tells whether an interface may have the name.
func ValidDevice(s string) bool {
	_, err := parseDevice(s)
	return err == nil
}

func pattern(re string) schema { return schema{"type": "string", "pattern": re} }

func integer(low, high uint64) schema {
	return schema{"type": "integer", "minimum": low, "maximum": high}
}

// number reads a whole number, decimal or with 0x.
func number[V ~int | ~uint8 | ~uint16 | ~uint32](what string, low, high uint64) kind[V] {
	want := fmt.Sprintf("%s, %d to %d", what, low, high)
	return text(want, integer(low, high), func(s string) (V, error) {
		n, err := strconv.ParseUint(s, 0, 64)
		if err != nil || n < low || n > high || strings.Contains(s, "_") || len(s) > 1 && s[0] == '0' && s[1] != 'x' {
			return 0, errWant
		}
		return V(n), nil
	})
}

// orZero lets a word stand for zero.
func orZero[V ~int | ~uint8 | ~uint16 | ~uint32](word string, k kind[V]) kind[V] {
	read := k.read
	k.want += " or " + word
	k.schema = schema{"anyOf": []any{schema{"const": word}, k.schema}}
	k.read = func(d *decoder, n *node) (V, bool) {
		if n.form == scalar && n.text == word {
			return 0, true
		}
		return read(d, n)
	}
	return k
}

// oneOf reads one of some words.
func oneOf[V ~string](words ...V) kind[V] {
	texts := make([]string, len(words))
	for i, w := range words {
		texts[i] = string(w)
	}
	return text("one of "+strings.Join(texts, ", "), schema{"enum": texts}, func(s string) (V, error) {
		if slices.Contains(texts, s) {
			return V(s), nil
		}
		if better, ok := suggest(s, texts); ok {
			return "", fmt.Errorf("%q is not valid here: did you mean %s?", s, better)
		}
		return "", errWant
	})
}

// asnKind reads an AS number, as a number or in the dotted notation of RFC 5396.
var asnSchema = schema{"anyOf": []any{integer(1, 4294967294), pattern(`^[0-9]+\.[0-9]+$`)}}

func asnKind() kind[uint32] {
	return text("an AS number, 1 to 4294967294", asnSchema, parseASN)
}

func parseASN(s string) (uint32, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "AS"), 10, 32)
	if high, low, ok := strings.Cut(s, "."); ok {
		h, err1 := strconv.ParseUint(high, 10, 16)
		l, err2 := strconv.ParseUint(low, 10, 16)
		n, err = h<<16|l, errors.Join(err1, err2)
	}
	switch {
	case err != nil:
		return 0, errWant
	case n == 0:
		return 0, errors.New("AS 0 is nobody's (RFC 7607); leave asn out for a peer that does not speak BGP")
	case n == 23456:
		return 0, errors.New("23456 is AS_TRANS, the stand-in for 4-byte numbers in old messages (RFC 6793), and nobody's own")
	case n == 65535 || n == 4294967295:
		return 0, fmt.Errorf("%d is the last number, and reserved (RFC 7300)", n)
	}
	return uint32(n), nil
}

func boolKind() kind[bool] {
	return text("true or false", schema{"type": "boolean"}, func(s string) (bool, error) {
		switch s {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return false, errWant
	})
}

// seconds reads a duration in whole seconds: "90", "90s", "3m".
func seconds(low, high time.Duration) kind[time.Duration] {
	want := fmt.Sprintf("a time such as 90s or 3m, %v to %v, in whole seconds", low, high)
	s := schema{"anyOf": []any{integer(uint64(low/time.Second), uint64(high/time.Second)), pattern(`^([0-9]+h)?([0-9]+m)?([0-9]+s)?$`)}}
	return text(want, s, func(s string) (time.Duration, error) {
		v, err := time.ParseDuration(s)
		if n, err2 := strconv.ParseUint(s, 10, 31); err2 == nil {
			v, err = time.Duration(n)*time.Second, nil
		}
		if err != nil || v < low || v > high || v%time.Second != 0 {
			return 0, errWant
		}
		return v, nil
	})
}

// orOff lets "off" stand for no time at all.
func orOff(k kind[time.Duration]) kind[time.Duration] {
	read := k.read
	k.want += ", or off"
	k.schema = schema{"anyOf": []any{schema{"enum": []any{"off", 0}}, k.schema}}
	k.read = func(d *decoder, n *node) (time.Duration, bool) {
		if n.form == scalar && (n.text == "off" || n.text == "0") {
			return 0, true
		}
		return read(d, n)
	}
	return k
}

func stringKind(want string, limit int) kind[string] {
	return text(want, schema{"type": []string{"string", "number", "boolean"}}, func(s string) (string, error) {
		if s == "" || len(s) > limit || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", errWant
		}
		return s, nil
	})
}

func nameKind(what string) kind[string] {
	return text(what+": letters, digits, '-', '_' and '.', at most 63", schema{"type": []string{"string", "number"}, "pattern": namePattern.String()}, func(s string) (string, error) {
		if !namePattern.MatchString(s) {
			return "", errWant
		}
		return s, nil
	})
}

func deviceKind(extra ...string) kind[string] {
	want := strings.Join(append([]string{"the name of an interface: letters, digits, '-', '_' and '.', at most 15"}, extra...), ", or ")
	return text(want, pattern(devicePattern.String()), parseDevice)
}

func parseDevice(s string) (string, error) {
	switch {
	case len(s) > 15:
		return "", fmt.Errorf("%q has %d characters; Linux allows 15 in the name of an interface", s, len(s))
	case !devicePattern.MatchString(s), s == ".", s == "..":
		return "", errWant
	case s == "lo", s == "all", s == "default":
		return "", fmt.Errorf("%q has another meaning on every Linux system", s)
	}
	return s, nil
}

func addrKind(want string, ok func(netip.Addr) bool) kind[netip.Addr] {
	return text(want, pattern(`^[0-9A-Fa-f:.]+(%.+)?$`), func(s string) (netip.Addr, error) {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil || a.Is4In6() || !ok(a):
			return netip.Addr{}, errWant
		case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return netip.Addr{}, fmt.Errorf("%s is not an address that a host can have on a network", s)
		}
		return a, nil
	})
}

func is4(a netip.Addr) bool { return a.Is4() }

// isGlobal6 is any IPv6 address that needs no zone.
func isGlobal6(a netip.Addr) bool { return a.Is6() && !a.IsLinkLocalUnicast() && a.Zone() == "" }

func prefixKind() kind[netip.Prefix] {
	return text("a prefix such as 172.20.1.0/27 or fd42:1::/48", pattern(`^[0-9A-Fa-f:.]+/[0-9]{1,3}$`), func(s string) (netip.Prefix, error) {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil && !strings.Contains(s, "/"):
			if a, err := netip.ParseAddr(s); err == nil {
				return netip.Prefix{}, fmt.Errorf("%s has no length: a single address is %s/%d", s, s, a.BitLen())
			}
			return netip.Prefix{}, errWant
		case err != nil || p.Addr().Is4In6():
			return netip.Prefix{}, errWant
		case p != p.Masked():
			return netip.Prefix{}, fmt.Errorf("%s has host bits set: did you mean %v?", s, p.Masked())
		}
		return p, nil
	})
}

func rangeKind() kind[policy.PrefixRange] {
	return text("a prefix range such as 10.0.0.0/8, 10.0.0.0/8+ or 10.0.0.0/8{15,24}", pattern(`^[0-9A-Fa-f:.]+/[0-9]{1,3}(\+|\{ *[0-9]+ *, *[0-9]+ *\})?$`), policy.ParsePrefixRange)
}

func communityKind() kind[string] {
	return text("a community such as 64511:24, 4242420001:1:2 or no-export", pattern(`^([0-9]+:[0-9]+(:[0-9]+)?|[a-z-]+)$`), policy.ParseCommunity)
}

// communityPatternKind reads a community, perhaps with wildcards; Policy.Validate knows which ones.
func communityPatternKind() kind[string] {
	return text("a community, 64511:*, 4242420001:*:* or *", pattern(`^([0-9]+:([0-9]+|\*)(:([0-9]+|\*))?|[a-z-]+|\*)$`), func(s string) (string, error) {
		probe := policy.Policy{Import: []policy.Rule{{Match: policy.Match{Communities: []string{s}}}}}
		if probe.Validate() != nil {
			return "", errWant
		}
		return s, nil
	})
}

func asPathKind() kind[string] {
	return text("a regular expression over the AS path, such as ^64512_ or _666$", schema{"type": []string{"string", "integer"}}, func(s string) (string, error) {
		_, err := policy.CompileASPath(s)
		return s, err
	})
}

var keySchema = pattern(`^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$`)

func publicKeyKind() kind[wg.PublicKey] {
	return text("44 characters of base64, as `sitewire pubkey` or `wg pubkey` print it", keySchema, func(s string) (wg.PublicKey, error) {
		k, err := wg.ParsePublicKey(s)
		switch {
		case err != nil && len(s) != 44:
			return k, fmt.Errorf("a public key has 44 characters, this has %d", len(s))
		case err != nil:
			return k, errWant
		case lowOrder(k):
			return k, errors.New("not a public key: everybody could compute the shared secret (it is a point of low order)")
		}
		return k, nil
	})
}

func secretKeyKind(what string) kind[wg.Secret] {
	return secretText(what+": 44 characters of base64", keySchema, func(s string) (wg.Secret, error) {
		k, err := wg.ParseSecret(s)
		if err == nil && k.IsZero() {
			err = errWant
		}
		return k, err
	})
}

// maxPassword is TCP_MD5SIG_MAXKEYLEN of Linux, in bytes.
const maxPassword = 80

func passwordKind() kind[Password] {
	return secretText(fmt.Sprintf("a password of at most %d bytes", maxPassword), schema{"type": []string{"string", "number"}}, func(s string) (Password, error) {
		if s == "" || len(s) > maxPassword {
			return "", errWant
		}
		return Password(s), nil
	})
}

func endpointKind() kind[Endpoint] {
	return text("a host name or address, and a port: nyc.example.net:51820, 192.0.2.1:51820, [2001:db8::1]:51820", pattern(`^.+:[0-9]{1,5}$`), ParseEndpoint)
}

// ParseEndpoint reads host:port. It splits at the last colon, as wg(8) does, so that IPv6 addresses need no brackets.
func ParseEndpoint(s string) (Endpoint, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return Endpoint{}, fmt.Errorf("%q has no port", s)
	}
	host, portText := s[:i], s[i+1:]
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return Endpoint{}, fmt.Errorf("%q: %q is not a port, 1 to 65535", s, portText)
	}
	bracketed := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]")
	if bracketed {
		host = host[1 : len(host)-1]
	}
	a, err := netip.ParseAddr(host)
	switch {
	case err == nil && (a.IsUnspecified() || a.IsMulticast()):
		return Endpoint{}, fmt.Errorf("%q: %v is not the address of one host", s, a)
	case err == nil:
		return Endpoint{a.Unmap().String(), uint16(port)}, nil
	case strings.Contains(host, ":") || bracketed:
		return Endpoint{}, fmt.Errorf("%q: %q is not an IPv6 address", s, host)
	case len(host) > 253 || !hostPattern.MatchString(host) || !strings.ContainsFunc(host, notNumeric):
		return Endpoint{}, fmt.Errorf("%q: %q is neither an address nor a host name", s, host)
	}
	return Endpoint{strings.ToLower(host), uint16(port)}, nil
}

// notNumeric tells host names from malformed IPv4 addresses.
func notNumeric(r rune) bool { return r != '.' && (r < '0' || r > '9') }

func levelKind() kind[slog.Level] {
	words := oneOf("debug", "info", "warn", "error")
	return kind[slog.Level]{words.want, words.schema, func(d *decoder, n *node) (l slog.Level, ok bool) {
		w, ok := words.read(d, n)
		if ok {
			ok = l.UnmarshalText([]byte(w)) == nil
		}
		return l, ok
	}}
}
