package password

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"hash"
	"strings"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/scrypt"
)

// Bounds on the parameters of hashes that come from elsewhere. The lowest are
// those that a migration still meets; such a hash lives until its owner's next
// login. The highest keep a check within a second or two and 512 MiB.
const (
	minCost, maxCost     = 4, 14            // bcrypt
	minLogN, maxLogN     = 10, 19           // scrypt
	minBlock, maxBlock   = 1, 32            // scrypt r
	minLanes, maxLanes   = 1, 16            // scrypt p
	maxScryptWork        = 1 << 22          // N*r*p
	minRounds, maxRounds = 1_000, 2_000_000 // PBKDF2
	bcryptLen            = 60               // of a whole bcrypt string
)

// Import returns nil for a hash that Verify takes: argon2id in PHC form, and,
// to be replaced at the next login,
//
//   - bcrypt, $2a$, $2b$ and $2y$, of cost 4 to 14;
//   - scrypt, $scrypt$ln=15,r=8,p=1$SALT$TAG;
//   - PBKDF2 with SHA-256 or SHA-512, $pbkdf2-sha256$i=600000,l=32$SALT$TAG or
//     $pbkdf2-sha256$600000$SALT$TAG.
//
// Salts and tags are base64 without padding, with "." for "+" allowed in the
// last form. Any other is of kind Invalid.
func Import(hash string) error {
	if _, err := read(hash); err != nil {
		return invalid("a hash to import is argon2id, bcrypt, scrypt or PBKDF2 within bounds, in PHC or crypt form")
	}
	return nil
}

// readImported takes a hash of another scheme apart; nil and nil when it is of
// none of those.
func readImported(text string) (verifier, error) {
	scheme, rest, _ := strings.Cut(strings.TrimPrefix(text, "$"), "$")
	switch scheme {
	case "2a", "2b", "2y":
		return readBcrypt(text)
	case "scrypt":
		return readScrypt(rest)
	case "pbkdf2-sha256":
		return readPBKDF2(sha256.New, rest)
	case "pbkdf2-sha512":
		return readPBKDF2(sha512.New, rest)
	}
	return nil, nil
}

// crypted is a bcrypt string. It looks at the first 72 bytes of a password
// alone, as everywhere.
type crypted string

func readBcrypt(text string) (verifier, error) {
	cost, err := bcrypt.Cost([]byte(text))
	if err != nil || len(text) != bcryptLen || cost < minCost || cost > maxCost {
		return nil, malformed("is not bcrypt within bounds")
	}
	return crypted(text), nil
}

func (c crypted) matches(password string) bool {
	return bcrypt.CompareHashAndPassword([]byte(c), []byte(password)) == nil
}

func (crypted) fresh() bool { return false }

// derived is a hash that is derived anew and compared. Other systems normalize
// nothing, so neither does it.
type derived struct {
	derive func(password string, length int) ([]byte, error)
	tag    []byte
}

func (d derived) matches(password string) bool {
	got, err := d.derive(password, len(d.tag))
	return err == nil && subtle.ConstantTimeCompare(got, d.tag) == 1
}

func (derived) fresh() bool { return false }

func readScrypt(rest string) (verifier, error) {
	f := strings.Split(rest, "$")
	if len(f) != 3 {
		return nil, malformed("is not scrypt")
	}
	p := strings.Split(f[0], ",")
	if len(p) != 3 {
		return nil, malformed("must have parameters ln, r and p")
	}
	ln, okN := number(p[0], "ln=", minLogN, maxLogN)
	r, okR := number(p[1], "r=", minBlock, maxBlock)
	lanes, okP := number(p[2], "p=", minLanes, maxLanes)
	if !okN || !okR || !okP || r*lanes<<ln > maxScryptWork || 128*r<<ln > maxMemory<<10 {
		return nil, malformed("has parameters out of bounds")
	}
	salt, tag, err := saltAndTag(f[1], f[2])
	if err != nil {
		return nil, err
	}
	return derived{func(password string, length int) ([]byte, error) {
		return scrypt.Key([]byte(password), salt, 1<<ln, int(r), int(lanes), length)
	}, tag}, nil
}

func readPBKDF2(digest func() hash.Hash, rest string) (verifier, error) {
	f := strings.Split(rest, "$")
	if len(f) != 3 {
		return nil, malformed("is not PBKDF2")
	}
	text, length, bounded := strings.Cut(f[0], ",l=")
	if !strings.HasPrefix(text, "i=") {
		text = "i=" + text
	}
	rounds, ok := number(text, "i=", minRounds, maxRounds)
	salt, tag, err := saltAndTag(strings.ReplaceAll(f[1], ".", "+"), strings.ReplaceAll(f[2], ".", "+"))
	if err != nil {
		return nil, err
	}
	if n, okL := number(length, "", minTag, maxTag); bounded && (!okL || int(n) != len(tag)) {
		ok = false
	}
	if !ok {
		return nil, malformed("has parameters out of bounds")
	}
	return derived{func(password string, length int) ([]byte, error) {
		return pbkdf2.Key(digest, password, salt, int(rounds), length)
	}, tag}, nil
}

func saltAndTag(a, b string) (salt, tag []byte, err error) {
	if salt, err = decode(a, minSalt, maxSalt); err != nil {
		return nil, nil, err
	}
	tag, err = decode(b, minTag, maxTag)
	return salt, tag, err
}
