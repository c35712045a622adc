package control

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/store"
)

// userSwaps bounds how often a change of an account that lost against another
// is made again.
const userSwaps = 8

// user returns the account of a subject. One that is not there is NotFound, and
// store.ErrNotFound.
func (p *Plane) user(ctx context.Context, subject string) (store.User, error) {
	u, err := p.opt.Store.User(ctx, strings.TrimPrefix(subject, "user:"))
	if errors.Is(err, store.ErrNotFound) {
		return u, &rampart.Error{Kind: rampart.NotFound, Msg: "control: this account is gone", Err: err}
	}
	return u, unavailable(err)
}

// sameUser refuses what was proved about an account that has changed since.
func sameUser(was, now store.User, control string) error {
	if now.Disabled || !now.Changed.Equal(was.Changed) {
		return changedMeanwhile(control)
	}
	return nil
}

func changedMeanwhile(control string) error {
	return rampart.Errorf(rampart.Unauthenticated, control, "this account has just changed; sign in again")
}

// changeUser changes an account as it is by then, so that no change undoes
// another, and returns what it became. edit may run more than once; what it
// refuses is not changed, and what it leaves as it was is not written.
func (p *Plane) changeUser(ctx context.Context, subject string, edit func(*store.User) error) (store.User, error) {
	for range userSwaps {
		was, err := p.user(ctx, subject)
		if err != nil {
			return store.User{}, err
		}
		u := was
		if err := edit(&u); err != nil {
			return store.User{}, err
		}
		if reflect.DeepEqual(u, was) {
			return was, nil
		}
		u.Changed = after(was.Changed, p.opt.Now())
		ok, err := p.opt.Store.SwapUser(ctx, u)
		if err != nil {
			return store.User{}, unavailable(err)
		}
		if ok {
			return u, nil
		}
	}
	return store.User{}, rampart.Errorf(rampart.Unavailable, "", "control: too many changes of one account at once; try again")
}

// after is now, but later than before in any case: two states of an account
// never have one time, whatever the clocks do.
func after(before, now time.Time) time.Time {
	if now.After(before) {
		return now
	}
	return before.Add(1)
}
