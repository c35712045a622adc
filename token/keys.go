package token

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
)

// Rings are the signing keys of the service. All are required.
type Rings struct {
	Internal *jwt.Ring // Ed25519: tokens between planes
	Edge     *jwt.Ring // ES256: clients' access tokens, and ID tokens for clients that want ES256
	ID       *jwt.Ring // RS256: ID tokens, for that is what every relying party knows
}

// Longest lives of what the rings sign, by which they know when a key that
// signs no more may be forgotten.
const (
	InternalKeyLife = 5 * time.Minute
	EdgeKeyLife     = time.Hour
	IDKeyLife       = 24 * time.Hour // an ID token is good for minutes; as the hint of a logout it comes back later
)

// keyset is one state of the rings, with what verifiers and others see of it.
type keyset struct {
	rings     Rings
	internal  *jwt.KeySet
	edge      *jwt.KeySet
	id        *jwt.KeySet
	planes    wire.Keys
	published []byte
}

// SetRings puts signing keys in force, those that verify what was signed
// before included. What Keys and Published return changes with them: planes
// must be told.
func (s *Service) SetRings(r Rings) error {
	if r.Internal == nil || r.Edge == nil || r.ID == nil {
		return errors.New("token: three rings of keys are required")
	}
	k := &keyset{rings: r, planes: wire.Keys{Issuer: s.opt.Issuer}}
	var err error
	if k.planes.Internal, err = r.Internal.Public(); err != nil {
		return err
	}
	if k.planes.Edge, err = r.Edge.Public(); err != nil {
		return err
	}
	id, err := r.ID.Public()
	if err != nil {
		return err
	}
	if k.published, err = union(k.planes.Edge, id); err != nil {
		return err
	}
	if k.internal, err = jwt.ParseKeySet(k.planes.Internal); err != nil {
		return err
	}
	if k.edge, err = jwt.ParseKeySet(k.planes.Edge); err != nil {
		return err
	}
	if k.id, err = jwt.ParseForeignKeySet(k.published, jwt.RS256, jwt.ES256); err != nil {
		return err
	}
	s.keys.Store(k)
	return nil
}

// union joins two JWK sets.
func union(a, b []byte) ([]byte, error) {
	var out, more struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := errors.Join(json.Unmarshal(a, &out), json.Unmarshal(b, &more)); err != nil {
		return nil, err
	}
	out.Keys = append(out.Keys, more.Keys...)
	return json.Marshal(out)
}

// Keys returns the public keys by which planes verify what the service issues.
func (s *Service) Keys() wire.Keys { return s.keys.Load().planes }

// Published returns the JWK set of what the service issues to clients.
func (s *Service) Published() []byte { return s.keys.Load().published }

// Rings returns the signing keys in force.
func (s *Service) Rings() Rings { return s.keys.Load().rings }

func (s *Service) internalSigner() *jwt.Signer {
	return s.keys.Load().rings.Internal.Signer(s.opt.Now())
}

func (s *Service) edgeSigner() *jwt.Signer { return s.keys.Load().rings.Edge.Signer(s.opt.Now()) }

// idSigner returns the key for the ID tokens of a client.
func (s *Service) idSigner(c Client) *jwt.Signer {
	if c.IDAlg == string(jwt.ES256) {
		return s.edgeSigner()
	}
	return s.keys.Load().rings.ID.Signer(s.opt.Now())
}

// verifiers makes the verifiers of what the service itself has signed.
func (s *Service) verifiers() {
	s.edge = jwt.NewEdge(jwt.EdgeOptions{
		Keys:     func() *jwt.KeySet { return s.keys.Load().edge },
		Issuer:   s.opt.Issuer,
		Audience: s.opt.Issuer,
		Revoked:  func(c jwt.EdgeClaims) bool { return s.revoked.token(c.ID) },
		Now:      s.opt.Now,
	})
	s.hints = jwt.NewIDHint(jwt.HintOptions{Keys: func() *jwt.KeySet { return s.keys.Load().id }, Issuer: s.opt.Issuer})
	for name := range s.system().Services {
		id := s.system().ServiceID(name)
		s.presented[id] = jwt.NewInternal(jwt.InternalOptions{
			Keys: func() *jwt.KeySet { return s.keys.Load().internal }, Issuer: s.opt.Issuer, Audience: id,
			Revoked: func(c jwt.InternalClaims) bool { return s.revoked.token(c.ID) }, Now: s.opt.Now,
		})
	}
}
