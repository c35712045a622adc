// Package rest is the few lines that every JSON service writes again: handlers
// that return errors, bodies read strictly, answers written with the headers
// that keep browsers and caches honest.
package rest

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/validate/strictjson"
)

// MaxBody is the number of bytes that Read accepts.
const MaxBody = 64 << 10

// Handler serves f. An error of f is answered as an RFC 9457 problem: a
// *rampart.Error with its message, anything else as "internal" without detail.
// What the service itself is to blame for is logged.
func Handler(log *slog.Logger, f func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := f(w, r)
		if err == nil {
			return
		}
		trace := rampart.TraceFrom(r.Context())
		if problem.Status(err) >= 500 {
			log.LogAttrs(r.Context(), slog.LevelError, "request failed",
				slog.String("method", r.Method), slog.String("route", r.Pattern),
				slog.String("trace", trace), slog.String("error", err.Error()))
		}
		problem.Write(w, err, trace)
	})
}

// Read decodes a JSON body of at most MaxBody bytes into v. Duplicate names,
// unknown fields, trailing data and other media types are refused (Invalid).
func Read(r *http.Request, v any) error {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !strings.EqualFold(media, "application/json") {
		return WithStatus(http.StatusUnsupportedMediaType,
			rampart.Errorf(rampart.Invalid, "validate.json", "the body must be application/json"))
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	if err != nil {
		return &rampart.Error{Kind: rampart.Invalid, Control: "validate.json", Msg: "the body was cut short", Err: err}
	}
	if len(b) > MaxBody {
		return WithStatus(http.StatusRequestEntityTooLarge,
			rampart.Errorf(rampart.Invalid, "validate.max_body", "the body is over %d bytes", MaxBody))
	}
	if _, err := strictjson.DecodeBody(b); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &rampart.Error{Kind: rampart.Invalid, Control: "validate.json", Msg: "the body does not have the expected fields", Err: err}
	}
	return nil
}

// Write answers with v as JSON. The answer is for this caller only, so no cache
// keeps it. An error means that nothing was sent.
func Write(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client may have gone; nobody is left to tell
	return nil
}

// WithStatus makes Handler answer err with this status instead of the one of
// its kind. The message of a rampart.Error is still what the caller reads.
func WithStatus(status int, err error) error {
	return &problem.Details{Err: err, Status: status}
}
