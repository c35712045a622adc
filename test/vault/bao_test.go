package vault_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/openbao/openbao/api/v2"
)

// bao is the client of OpenBao.
type bao struct {
	c  *api.Client
	at place
}

func newBao(at place) (driver, error) {
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		return nil, cfg.Error
	}
	cfg.Address, cfg.HttpClient, cfg.MaxRetries = at.url, at.client(), 0
	c, err := api.NewClient(cfg)
	if err != nil {
		return nil, err
	}
	c.SetToken(at.token)
	return bao{c, at}, nil
}

// said is an error in the words that all drivers have in common.
func (b bao) said(err error) string {
	e, ok := errors.AsType[*api.ResponseError](err)
	switch {
	case err == nil:
		return "ok"
	case ok:
		return kindOf(e.StatusCode, strings.Join(e.Errors, " "))
	case errors.Is(err, api.ErrSecretNotFound):
		return "not_found"
	}
	return "unavailable"
}

func (b bao) read(ctx context.Context, path string, version int) string {
	s, err := b.c.KVv2(b.at.kv).GetVersion(ctx, path, version)
	if version == 0 {
		s, err = b.c.KVv2(b.at.kv).Get(ctx, path)
	}
	if err != nil {
		return b.said(err)
	}
	if s.Data == nil {
		return "not_found" // deleted or destroyed: the client hands out what is known of it
	}
	value, ok := s.Data["value"]
	if !ok {
		return "not_found"
	}
	return fmt.Sprintf("v%d %v", s.VersionMetadata.Version, value)
}

func (b bao) put(ctx context.Context, path, value string, after int) string {
	var opts []api.KVOption
	if after >= 0 {
		opts = append(opts, api.WithCheckAndSet(after))
	}
	s, err := b.c.KVv2(b.at.kv).Put(ctx, path, map[string]any{"value": value}, opts...)
	if err != nil {
		return b.said(err)
	}
	return "v" + strconv.Itoa(s.VersionMetadata.Version)
}

func (b bao) list(ctx context.Context, folder string) string {
	s, err := b.c.Logical().ListWithContext(ctx, b.at.kv+"/metadata/"+folder)
	if err != nil {
		return b.said(err)
	}
	if s == nil {
		return ""
	}
	var out []string
	for _, key := range s.Data["keys"].([]any) {
		m, err := b.c.KVv2(b.at.kv).GetMetadata(ctx, folder+"/"+key.(string))
		if err != nil {
			return b.said(err)
		}
		out = append(out, fmt.Sprintf("%s/%s@%d", folder, key, m.CurrentVersion))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (b bao) destroy(ctx context.Context, path string, version int) string {
	if version == 0 {
		return b.said(b.c.KVv2(b.at.kv).DeleteMetadata(ctx, path))
	}
	return b.said(b.c.KVv2(b.at.kv).Destroy(ctx, path, []int{version}))
}

func (b bao) transit(ctx context.Context, verb, key, in, bind string) string {
	body := map[string]any{"context": bind, "ciphertext": in}
	out := "ciphertext"
	switch verb {
	case "encrypt":
		body = map[string]any{"context": bind, "plaintext": base64.StdEncoding.EncodeToString([]byte(in))}
	case "decrypt":
		out = "plaintext"
	}
	s, err := b.c.Logical().WriteWithContext(ctx, b.at.transit+"/"+verb+"/"+key, body)
	if err != nil {
		return b.said(err)
	}
	text := s.Data[out].(string)
	if verb == "decrypt" {
		plain, _ := base64.StdEncoding.DecodeString(text)
		text = string(plain)
	}
	return text
}

func (b bao) creds(ctx context.Context, role string) (leased, string) {
	s, err := b.c.Logical().ReadWithContext(ctx, b.at.database+"/creds/"+role)
	if err != nil {
		return leased{}, b.said(err)
	}
	return leased{id: s.LeaseID, seconds: s.LeaseDuration, user: s.Data["username"].(string)}, "ok"
}

func (b bao) renew(ctx context.Context, l leased, seconds int) (leased, string) {
	s, err := b.c.Sys().RenewWithContext(ctx, l.id, seconds)
	if err != nil {
		return leased{}, lost(b.said(err))
	}
	return leased{id: s.LeaseID, seconds: s.LeaseDuration, user: l.user}, "ok"
}

func (b bao) revoke(ctx context.Context, l leased) string {
	return b.said(b.c.Sys().RevokeWithContext(ctx, l.id))
}

func (b bao) login(ctx context.Context, role, secretID string) string {
	s, err := b.c.Logical().WriteWithContext(ctx, "auth/"+b.at.approle+"/login", map[string]any{"role_id": role, "secret_id": secretID})
	if err != nil {
		return refused(b.said(err))
	}
	inside, err := b.c.Clone()
	if err != nil {
		return "unavailable"
	}
	inside.SetToken(s.Auth.ClientToken)
	if _, err := inside.Auth().Token().RenewSelfWithContext(ctx, 0); err != nil {
		return "not renewable: " + b.said(err)
	}
	return b.said(inside.Auth().Token().RevokeSelfWithContext(ctx, ""))
}

func (b bao) sign(ctx context.Context, csr string) string {
	s, err := b.c.Logical().WriteWithContext(ctx, b.at.pki+"/root/sign-intermediate", map[string]any{
		"csr": csr, "use_csr_values": true, "max_path_length": 0, "ttl": "168h", "format": "pem",
	})
	if err != nil {
		return b.said(err)
	}
	return about(s.Data["certificate"].(string), s.Data["issuing_ca"].(string))
}

func (b bao) unwrap(ctx context.Context, wrapping string) string {
	s, err := b.c.Logical().UnwrapWithContext(ctx, wrapping)
	if err != nil {
		return refused(b.said(err))
	}
	return s.Data["secret_id"].(string)
}

func mustBao(t *testing.T, at place) bao {
	t.Helper()
	d, err := newBao(at)
	if err != nil {
		t.Fatal(err)
	}
	return d.(bao)
}
