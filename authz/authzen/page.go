package authzen

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rampart-security/rampart"
)

// nextPage is the page object of a response; an empty token ends the search.
type nextPage struct {
	NextToken string `json:"next_token"`
}

// begin returns where a page starts and how many results it holds.
func (s *Server) begin(c call, q *question) (at, limit int, err error) {
	limit = DefaultPage
	if q.Page == nil {
		return 0, limit, nil
	}
	if n := q.Page.Limit; n != nil {
		if *n < 0 {
			return 0, 0, rampart.Errorf(rampart.Invalid, "", "page.limit is 0 or more")
		}
		limit = min(*n, MaxPage)
	}
	if q.Page.Token == "" {
		return 0, limit, nil
	}
	at, ok := s.redeem(c, q)
	if !ok {
		return 0, 0, rampart.Errorf(rampart.Invalid, "", "page.token does not belong to this request, or is too old: begin the search anew")
	}
	return at, limit, nil
}

// token remembers where a search stopped: 8 bytes offset, 8 bytes expiry, and a
// MAC over both, the caller and the question, so that a token taken from one
// search opens no other.
func (s *Server) token(c call, q *question, at int) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(at))
	binary.BigEndian.PutUint64(b[8:], uint64(s.opt.Now().Add(tokenLife).Unix()))
	return base64.RawURLEncoding.EncodeToString(append(b[:], s.mac(c, q, b[:])...))
}

func (s *Server) redeem(c call, q *question) (int, bool) {
	raw, err := base64.RawURLEncoding.DecodeString(q.Page.Token)
	if err != nil || len(raw) != 16+sha256.Size || !hmac.Equal(raw[16:], s.mac(c, q, raw[:16])) {
		return 0, false
	}
	expires := time.Unix(int64(binary.BigEndian.Uint64(raw[8:16])), 0)
	return int(binary.BigEndian.Uint64(raw[:8])), s.opt.Now().Before(expires)
}

// mac binds a position to a caller and to everything else of the request, which
// must stay the same from page to page (section 8.2).
func (s *Server) mac(c call, q *question, position []byte) []byte {
	h := hmac.New(sha256.New, s.key[:])
	for _, part := range [][]byte{position, []byte(c.rights.Caller), same(q)} {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		h.Write(part)
	}
	return h.Sum(nil)
}

// same is the canonical form of what a search asks.
func same(q *question) []byte {
	b, err := json.Marshal(q.member, json.Deterministic(true))
	if err != nil {
		return nil // of values that were read from JSON: it cannot fail
	}
	return b
}
