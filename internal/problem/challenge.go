package problem

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
)

// StepUp refuses a request whose login is not strong or not fresh enough (RFC
// 9470, section 3). acr and maxAge say what is asked for, "" and 0 nothing. next
// is the path to come back to, of a person with a session; "" says that the caller
// showed a token. The challenge names no scheme that the caller did not use: a
// browser's session has no registered one, so its is called Session, and a page reads
// the same parameters from it, or the way from the document.
func StepUp(acr string, maxAge time.Duration, next string) error {
	age := strconv.FormatInt(int64(maxAge/time.Second), 10)
	scheme := "Bearer"
	if next != "" {
		scheme = "Session"
	}
	challenge := scheme + ` error="insufficient_user_authentication", error_description="a stronger or more recent login is required"`
	query := url.Values{"next": {next}}
	if acr != "" {
		challenge += fmt.Sprintf(`, acr_values="%s"`, acr)
		query.Set("acr", acr)
	}
	if maxAge > 0 {
		challenge += fmt.Sprintf(`, max_age="%s"`, age)
		query.Set("max_age", age)
	}
	d := Details{Challenge: challenge}
	if next != "" {
		d.StepUp = "/login/step-up?" + query.Encode()
	}
	return With(rampart.Errorf(rampart.Unauthenticated, "authn.step_up", "a stronger or more recent login is required"), d)
}

// Scope wraps a denial of a credential whose scope does not cover a permission
// (RFC 6750, section 3.1).
func Scope(err error, permission string) error {
	challenge := `Bearer error="insufficient_scope"`
	if permission != "" && !strings.ContainsAny(permission, "\"\\") {
		challenge += fmt.Sprintf(`, scope="%s"`, permission)
	}
	return With(err, Details{Challenge: challenge})
}
