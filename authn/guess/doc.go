// Package guess answers "may this guess be looked at at all?" It brakes whoever
// guesses at passwords, codes and client secrets, and never locks the owner out.
//
// An attempt is counted before anything is compared, in one step over all of
// its counters, so that a thousand at once, or over many replicas, are no
// better than one after another. Success gives back what is right; failure
// needs no call, and neither does a crash.
//
// A known device of the account has a counter of its own. Nothing that
// strangers do touches it, and nothing that happens on it touches theirs: the
// owner's daily logins would feed an attacker new guesses every day. Forgive, for
// which somebody has looked at who is there, empties both.
//
// Everybody else is a stranger, with these counters:
//
//   - the account's: failures in a row. From the fifth on there is a pause, of
//     a second at first, doubled with each failure up to fifteen minutes. There
//     are fewer than a hundred (SP 800-63B-4 section 3.2.2): after that,
//     strangers stay out for thirty days, and the owner comes in by a known
//     device, by a passkey, or after Forgive.
//   - the pair's of account and address, the address's, and the network's (/24,
//     or /64 of IPv6): failures within ten minutes.
//
// A stranger's success forgives the failures at this account from this very
// address, on every counter (as section 3.2.2 advises): the owner's own typing
// errors, while what others tried from elsewhere stays counted.
//
// Failures in a row are remembered for as many days as there are of them, up to
// thirty. So an account takes no more than a hundred wrong guesses a month,
// fast or slow, and a row about a name that somebody made up is gone in a day.
package guess
