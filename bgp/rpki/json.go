package rpki

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// maxFile bounds a file of payloads, in bytes: MaxVRPs rows with room to spare.
const maxFile = 512 << 20

// row is one payload as rpki-client, routinator and the generators of dn42 write it. Their ASN is a number, "AS64512" or
// "64512".
type row struct {
	Prefix    string          `json:"prefix"`
	MaxLength *int            `json:"maxLength"`
	ASN       json.RawMessage `json:"asn"`
}

func (r *row) vrp() (VRP, error) {
	p, err := netip.ParsePrefix(r.Prefix)
	if err != nil {
		return VRP{}, err
	}
	asn, err := strconv.ParseUint(strings.TrimPrefix(strings.Trim(string(r.ASN), `"`), "AS"), 10, 32)
	if err != nil {
		return VRP{}, fmt.Errorf("%.40q is not an ASN", r.ASN)
	}
	longest := p.Bits()
	if r.MaxLength != nil {
		longest = *r.MaxLength
	}
	return NewVRP(p, longest, uint32(asn))
}

// dated tells whether the metadata of a file say when a program wrote it: generated, generatedTime or buildtime of the generators, and
// valid of dn42's. Such a file is meant to be renewed; a list that a person keeps by hand has none of them.
func dated(metadata json.RawMessage) bool {
	var m map[string]json.RawMessage
	if json.Unmarshal(metadata, &m) != nil {
		return false
	}
	for _, key := range []string{"generated", "generatedTime", "buildtime", "valid"} {
		if m[key] != nil {
			return true
		}
	}
	return false
}

// parseJSON reads {"roas": [...]} and returns the payloads, sorted. Bad rows are skipped and counted; a file which half is bad is
// refused, because what is left would turn good routes down. renewed tells that a program wrote it, and when.
func parseJSON(r io.Reader) (list []VRP, skipped int, renewed bool, err error) {
	limited := &io.LimitedReader{R: r, N: maxFile}
	d := json.NewDecoder(limited)
	if err := expect(d, json.Delim('{')); err != nil {
		return nil, 0, false, err
	}
	found, bad := false, error(nil)
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, 0, false, err
		}
		if key != "roas" {
			var skip json.RawMessage
			if err := d.Decode(&skip); err != nil {
				return nil, 0, false, err
			}
			renewed = renewed || key == "metadata" && dated(skip)
			continue
		}
		found = true
		if list, skipped, bad, err = parseRows(d, list); err != nil {
			return nil, 0, false, err
		}
	}
	if err := expect(d, json.Delim('}')); err != nil {
		return nil, 0, false, err
	}
	switch {
	case limited.N <= 0:
		return nil, 0, false, fmt.Errorf("larger than %d MiB", maxFile>>20)
	case !found:
		return nil, 0, false, errors.New(`no list "roas": want {"roas": [{"prefix": …, "maxLength": …, "asn": …}]}`)
	case skipped > len(list):
		return nil, 0, false, fmt.Errorf("%d of %d rows are bad, the first: %w", skipped, skipped+len(list), bad)
	}
	return sorted(list), skipped, renewed, nil
}

func parseRows(d *json.Decoder, list []VRP) (_ []VRP, skipped int, bad, err error) {
	if err := expect(d, json.Delim('[')); err != nil {
		return nil, 0, nil, err
	}
	for n := 1; d.More(); n++ {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, 0, nil, err
		}
		var r row
		err := json.Unmarshal(raw, &r)
		var v VRP
		if err == nil {
			v, err = r.vrp()
		}
		if err != nil {
			skipped++
			if bad == nil {
				bad = fmt.Errorf("row %d: %w", n, err)
			}
			continue
		}
		if len(list) >= MaxVRPs {
			return nil, 0, nil, errTooMany
		}
		list = append(list, v)
	}
	return list, skipped, bad, expect(d, json.Delim(']'))
}

var errTooMany = fmt.Errorf("more than %d payloads", MaxVRPs)

func expect(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("%v in the place of %v", t, want)
	}
	return nil
}

// sorted sorts in place and drops repetitions.
func sorted(list []VRP) []VRP {
	slices.SortFunc(list, compareVRPs)
	return slices.Clip(slices.Compact(list))
}
