package vectors

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/rampart-security/rampart/data/envelope"
)

// TestWycheproofAESGCM asks the cipher that seals columns, as the envelope's cache
// of keys hands it out. It has keys of 256 bits, nonces of 96 and tags of 128: the
// vectors of other sizes are none of its business.
func TestWycheproofAESGCM(t *testing.T) {
	const total, ours = 316, 66
	var f struct {
		NumberOfTests int
		TestGroups    []struct {
			KeySize, IVSize, TagSize int
			Tests                    []struct {
				TcID                                int
				Key, IV, AAD, Msg, CT, Tag, Comment string
				Result                              string
			}
		}
	}
	data, err := fs.ReadFile(wycheproof.TestVectors, "aes_gcm_test.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	passed, other := 0, 0
	for _, g := range f.TestGroups {
		if [3]int{g.KeySize, g.IVSize, g.TagSize} != [3]int{256, 96, 128} {
			other += len(g.Tests)
			continue
		}
		for _, v := range g.Tests {
			keys := envelope.NewKeys(func(context.Context, envelope.Query) ([]byte, uint32, error) { return raw(t, v.Key), 1, nil }, envelope.KeysOptions{})
			aead, err := keys.ByVersion(t.Context(), envelope.Whose{Item: "i", Tenant: "t"}, 1)
			if err != nil {
				t.Fatal(err)
			}
			box := append(append(raw(t, v.IV), raw(t, v.CT)...), raw(t, v.Tag)...)
			got, err := aead.Open(nil, nil, box, raw(t, v.AAD))
			if valid := v.Result == "valid"; valid != (err == nil) || valid && !bytes.Equal(got, raw(t, v.Msg)) {
				t.Errorf("%d (%s, %s): %x, %v", v.TcID, v.Comment, v.Result, got, err)
				continue
			}
			passed++
		}
	}
	if f.NumberOfTests != total || passed != ours {
		t.Errorf("%d of %d, want %d of %d", passed, f.NumberOfTests, ours, total)
	}
	t.Logf("AES-GCM: %d right of %d; %d of other sizes left out", passed, ours, other)
}

func raw(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
