package bench

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/rampart-security/rampart/data/envelope"
)

// column is one cell of 1 KiB.
var column = envelope.Cell{Item: "contact", Tenant: "acme", Table: "people", Column: "email", Row: "018f0000-0000-7000-8000-000000000000"}

func columnKey() []byte { return make([]byte, 32) }

func columnKeys() envelope.Keys {
	return envelope.NewKeys(func(context.Context, envelope.Query) ([]byte, uint32, error) { return columnKey(), 1, nil }, envelope.KeysOptions{})
}

// sealer is one way to seal a column.
type sealer struct {
	seal, open func([]byte) ([]byte, error)
}

// BenchmarkColumn measures one column of 1 KiB, with the key at hand: ours, the
// bare cipher, Tink's AEAD, and Tink's envelope with a key encryption key in the
// same process, where a real one would be a call over the network for each value.
func BenchmarkColumn(b *testing.B) {
	plain := make([]byte, 1024)
	for _, way := range []struct {
		name string
		sealer
	}{{"rampart", ours(b)}, {"bare AES-GCM", bare(b)}, {"Tink", ofTink(tinkAEAD(b))}, {"Tink envelope", ofTink(tinkEnvelope(b))}} {
		sealed, err := way.seal(plain)
		if err != nil {
			b.Fatal(err)
		}
		for verb, f := range map[string]func() ([]byte, error){
			"seal": func() ([]byte, error) { return way.seal(plain) },
			"open": func() ([]byte, error) { return way.open(sealed) },
		} {
			b.Run(fmt.Sprintf("%s/%s", verb, way.name), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(1024)
				for b.Loop() {
					if _, err := f(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(len(sealed)-len(plain)), "bytes-over")
			})
		}
	}
}

func ours(b *testing.B) sealer {
	keys := columnKeys()
	return sealer{
		func(p []byte) ([]byte, error) { return envelope.Seal(b.Context(), keys, column, p) },
		func(s []byte) ([]byte, error) { return envelope.Open(b.Context(), keys, column, s) },
	}
}

// aad is as long as that of a column.
var aad = make([]byte, 5+5*4+len("contact"+"acme"+"people"+"email"+"018f0000-0000-7000-8000-000000000000"))

func bare(b *testing.B) sealer {
	block, err := aes.NewCipher(columnKey())
	if err != nil {
		b.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		b.Fatal(err)
	}
	return sealer{
		func(p []byte) ([]byte, error) { return gcm.Seal(nil, nil, p, aad), nil },
		func(s []byte) ([]byte, error) { return gcm.Open(nil, nil, s, aad) },
	}
}

func ofTink(a tink.AEAD) sealer {
	return sealer{
		func(p []byte) ([]byte, error) { return a.Encrypt(p, aad) },
		func(s []byte) ([]byte, error) { return a.Decrypt(s, aad) },
	}
}

func tinkAEAD(b *testing.B) tink.AEAD {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		b.Fatal(err)
	}
	a, err := aead.New(handle)
	if err != nil {
		b.Fatal(err)
	}
	return a
}

func tinkEnvelope(b *testing.B) tink.AEAD {
	kek, err := subtle.NewAESGCM(columnKey())
	if err != nil {
		b.Fatal(err)
	}
	return aead.NewKMSEnvelopeAEAD2(aead.AES256GCMKeyTemplate(), kek)
}
