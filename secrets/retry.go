package secrets

import (
	"errors"
	"time"
)

// Busy is why a backend answers Limited: it asked to be left alone for so long.
type Busy time.Duration

func (b Busy) Error() string { return "the backend asks to wait " + time.Duration(b).String() }

// RetryAfter returns how long the backend that answered err asked to be left
// alone, 0 if it did not.
func RetryAfter(err error) time.Duration {
	b, _ := errors.AsType[Busy](err)
	return time.Duration(b)
}
