package vault_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/vault/api"
)

// hashi is HashiCorp's client.
type hashi struct {
	c  *api.Client
	at place
}

func newHashi(at place) (driver, error) {
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
	return hashi{c, at}, nil
}

// said is an error in the words that all drivers have in common.
func (h hashi) said(err error) string {
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

func (h hashi) read(ctx context.Context, path string, version int) string {
	s, err := h.c.KVv2(h.at.kv).GetVersion(ctx, path, version)
	if version == 0 {
		s, err = h.c.KVv2(h.at.kv).Get(ctx, path)
	}
	if err != nil {
		return h.said(err)
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

func (h hashi) put(ctx context.Context, path, value string, after int) string {
	var opts []api.KVOption
	if after >= 0 {
		opts = append(opts, api.WithCheckAndSet(after))
	}
	s, err := h.c.KVv2(h.at.kv).Put(ctx, path, map[string]any{"value": value}, opts...)
	if err != nil {
		return h.said(err)
	}
	return "v" + strconv.Itoa(s.VersionMetadata.Version)
}

func (h hashi) list(ctx context.Context, folder string) string {
	s, err := h.c.Logical().ListWithContext(ctx, h.at.kv+"/metadata/"+folder)
	if err != nil {
		return h.said(err)
	}
	if s == nil {
		return ""
	}
	var out []string
	for _, key := range s.Data["keys"].([]any) {
		m, err := h.c.KVv2(h.at.kv).GetMetadata(ctx, folder+"/"+key.(string))
		if err != nil {
			return h.said(err)
		}
		out = append(out, fmt.Sprintf("%s/%s@%d", folder, key, m.CurrentVersion))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (h hashi) destroy(ctx context.Context, path string, version int) string {
	if version == 0 {
		return h.said(h.c.KVv2(h.at.kv).DeleteMetadata(ctx, path))
	}
	return h.said(h.c.KVv2(h.at.kv).Destroy(ctx, path, []int{version}))
}

func (h hashi) transit(ctx context.Context, verb, key, in, bind string) string {
	body := map[string]any{"context": bind, "ciphertext": in}
	out := "ciphertext"
	switch verb {
	case "encrypt":
		body = map[string]any{"context": bind, "plaintext": base64.StdEncoding.EncodeToString([]byte(in))}
	case "decrypt":
		out = "plaintext"
	}
	s, err := h.c.Logical().WriteWithContext(ctx, h.at.transit+"/"+verb+"/"+key, body)
	if err != nil {
		return h.said(err)
	}
	text := s.Data[out].(string)
	if verb == "decrypt" {
		plain, _ := base64.StdEncoding.DecodeString(text)
		text = string(plain)
	}
	return text
}

func (h hashi) creds(ctx context.Context, role string) (leased, string) {
	s, err := h.c.Logical().ReadWithContext(ctx, h.at.database+"/creds/"+role)
	if err != nil {
		return leased{}, h.said(err)
	}
	return leased{id: s.LeaseID, seconds: s.LeaseDuration, user: s.Data["username"].(string)}, "ok"
}

func (h hashi) renew(ctx context.Context, l leased, seconds int) (leased, string) {
	s, err := h.c.Sys().RenewWithContext(ctx, l.id, seconds)
	if err != nil {
		return leased{}, lost(h.said(err))
	}
	return leased{id: s.LeaseID, seconds: s.LeaseDuration, user: l.user}, "ok"
}

func (h hashi) revoke(ctx context.Context, l leased) string {
	return h.said(h.c.Sys().RevokeWithContext(ctx, l.id))
}

func (h hashi) login(ctx context.Context, role, secretID string) string {
	s, err := h.c.Logical().WriteWithContext(ctx, "auth/"+h.at.approle+"/login", map[string]any{"role_id": role, "secret_id": secretID})
	if err != nil {
		return refused(h.said(err))
	}
	inside, err := h.c.Clone()
	if err != nil {
		return "unavailable"
	}
	inside.SetToken(s.Auth.ClientToken)
	if _, err := inside.Auth().Token().RenewSelfWithContext(ctx, 0); err != nil {
		return "not renewable: " + h.said(err)
	}
	return h.said(inside.Auth().Token().RevokeSelfWithContext(ctx, ""))
}

func (h hashi) sign(ctx context.Context, csr string) string {
	s, err := h.c.Logical().WriteWithContext(ctx, h.at.pki+"/root/sign-intermediate", map[string]any{
		"csr": csr, "use_csr_values": true, "max_path_length": 0, "ttl": "168h", "format": "pem",
	})
	if err != nil {
		return h.said(err)
	}
	return about(s.Data["certificate"].(string), s.Data["issuing_ca"].(string))
}

func (h hashi) unwrap(ctx context.Context, wrapping string) string {
	s, err := h.c.Logical().UnwrapWithContext(ctx, wrapping)
	if err != nil {
		return refused(h.said(err))
	}
	return s.Data["secret_id"].(string)
}

// admin is what an operator does, through the same client.
func (h hashi) admin(ctx context.Context, method, path string, body map[string]any) (map[string]any, error) {
	var s *api.Secret
	var err error
	switch method {
	case http.MethodGet:
		s, err = h.c.Logical().ReadWithContext(ctx, path)
	case http.MethodDelete:
		s, err = h.c.Logical().DeleteWithContext(ctx, path)
	case "WRAP":
		inside, cloned := h.c.Clone()
		if cloned != nil {
			return nil, cloned
		}
		inside.SetToken(h.at.token)
		inside.SetWrappingLookupFunc(func(string, string) string { return "60s" })
		s, err = inside.Logical().WriteWithContext(ctx, path, body)
		if err == nil {
			return map[string]any{"token": s.WrapInfo.Token}, nil
		}
	default:
		s, err = h.c.Logical().WriteWithContext(ctx, path, body)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if s == nil {
		return nil, nil
	}
	if s.Auth != nil {
		return map[string]any{"token": s.Auth.ClientToken}, nil
	}
	return s.Data, nil
}
