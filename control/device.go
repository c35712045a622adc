package control

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strings"
	"time"
)

// deviceCookie tells a browser that somebody has signed in with from one that
// is strange. It proves nothing about who is there: it only gives its user a
// place of their own to mistype in, which strangers cannot use up.
const deviceCookie = "__Host-rampart_device"

const (
	deviceFor  = 180 * 24 * time.Hour
	maxDevices = 4 // people who share a browser
)

// Sizes of one entry of the cookie, in bytes: id, expiry, HMAC.
const (
	deviceID     = 16
	deviceExpiry = 8
	deviceEntry  = deviceID + deviceExpiry + sha256.Size
)

// device is one entry of the cookie. It names no user: whose it is shows only
// to who asks for a user and holds the key.
type device [deviceEntry]byte

func (d device) id() string { return base64.RawURLEncoding.EncodeToString(d[:deviceID]) }

func (d device) expires() time.Time {
	return time.Unix(int64(binary.BigEndian.Uint64(d[deviceID:])), 0)
}

// deviceMAC binds an entry to its user.
func (p *Plane) deviceMAC(d device, subject string) []byte {
	mac := hmac.New(sha256.New, p.keys.device)
	mac.Write([]byte("rampart-device-v1\n"))
	mac.Write(d[:deviceID+deviceExpiry])
	mac.Write([]byte(subject))
	return mac.Sum(nil)
}

// devices returns the entries of the request's cookie that have not expired,
// of whomever they are. Two cookies of the name are none.
func (p *Plane) devices(r *http.Request) []device {
	found := r.CookiesNamed(deviceCookie)
	if len(found) != 1 {
		return nil
	}
	var out []device
	for _, text := range strings.SplitN(found[0].Value, ".", maxDevices+1) {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
		if err != nil || len(raw) != deviceEntry || len(out) == maxDevices {
			continue
		}
		if d := device(raw); p.opt.Now().Before(d.expires()) {
			out = append(out, d)
		}
	}
	return out
}

// knownDevice returns the id of the subject's known device that sent r, or "".
func (p *Plane) knownDevice(r *http.Request, subject string) string {
	known := ""
	for _, d := range p.devices(r) {
		if hmac.Equal(d[deviceID+deviceExpiry:], p.deviceMAC(d, subject)) {
			known = d.id()
		}
	}
	return known
}

// knowDevice makes the browser known as the subject's for 180 days from now.
// Who was known already keeps the id; of others the newest three stay.
func (p *Plane) knowDevice(w http.ResponseWriter, r *http.Request, subject string) {
	var mine device
	rand.Read(mine[:deviceID])
	var others []device
	for _, d := range p.devices(r) {
		if hmac.Equal(d[deviceID+deviceExpiry:], p.deviceMAC(d, subject)) {
			mine = d
			continue
		}
		others = append(others, d)
	}
	binary.BigEndian.PutUint64(mine[deviceID:], uint64(p.opt.Now().Add(deviceFor).Unix()))
	copy(mine[deviceID+deviceExpiry:], p.deviceMAC(mine, subject))
	text := base64.RawURLEncoding.EncodeToString(mine[:])
	for _, d := range others[:min(len(others), maxDevices-1)] {
		text += "." + base64.RawURLEncoding.EncodeToString(d[:])
	}
	http.SetCookie(w, hostCookie(deviceCookie, text, deviceFor))
}

// hostCookie is a cookie of this very host over TLS (RFC 6265bis, 4.1.3.2).
func hostCookie(name, value string, life time.Duration) *http.Cookie {
	return &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: int(life / time.Second),
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
}
