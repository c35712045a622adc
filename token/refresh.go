package token

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
)

// A refresh token is
//
//	rrt_FAMILY.GENERATION.MAC
//
// where MAC is HMAC-SHA256 of the rest under a key that the KEK seals. Nothing
// of a token is stored: the family's row knows which generation is the newest.
// That makes the successor of a token the same however often it is derived, so
// that a lost response heals and parallel refreshes cannot fork the family; and
// it tells an old token of ours (theft) from a made-up one (noise).
const refreshPrefix = "rrt_"

const maxRefresh = 128 // bytes

func (s *Service) refreshToken(family string, generation int) string {
	body := refreshPrefix + family + "." + strconv.Itoa(generation)
	return body + "." + s.mac(body)
}

// parseRefresh returns what a refresh token of ours says.
func (s *Service) parseRefresh(text string) (family string, generation int, ok bool) {
	if len(text) > maxRefresh || !strings.HasPrefix(text, refreshPrefix) {
		return "", 0, false
	}
	i := strings.LastIndexByte(text, '.')
	if i < 0 || !hmac.Equal([]byte(text[i+1:]), []byte(s.mac(text[:i]))) {
		return "", 0, false
	}
	family, number, _ := strings.Cut(text[len(refreshPrefix):i], ".")
	generation, err := strconv.Atoi(number)
	return family, generation, err == nil
}

// mac is HMAC-SHA256 under the service's key. Inputs of different kinds start
// with different prefixes.
func (s *Service) mac(text string) string {
	sum := s.sum(text)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (s *Service) sum(text string) [sha256.Size]byte {
	m := hmac.New(sha256.New, s.opt.Key)
	m.Write([]byte(text))
	return [sha256.Size]byte(m.Sum(nil))
}

// random returns n random bytes as unpadded base64url.
func random(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}
