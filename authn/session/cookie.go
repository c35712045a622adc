package session

import "net/http"

// CookieName carries the session id. The __Host- prefix makes browsers refuse
// it without Secure, with Domain or with another Path (RFC 6265bis, 4.1.3.2),
// so that neither plain HTTP nor a sibling host can plant one.
const CookieName = "__Host-rampart_sid"

// Cookie returns the cookie that hands id to the browser. It has no expiry of
// its own: the server's bounds are the ones that count.
func Cookie(id string) *http.Cookie {
	return &http.Cookie{Name: CookieName, Value: id, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
}

// ClearCookie returns the cookie that makes a browser forget its session.
func ClearCookie() *http.Cookie {
	c := Cookie("")
	c.MaxAge = -1
	return c
}

// FromRequest returns the session id of r, or "". Two cookies of the name are
// nobody's: which one counts would depend on the reader.
func FromRequest(r *http.Request) string {
	found := r.CookiesNamed(CookieName)
	if len(found) != 1 {
		return ""
	}
	return found[0].Value
}
