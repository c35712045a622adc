package planelink

import "sync"

// answers are those under way, so that a revocation can end them: one that
// streams would go on for as long as it likes. The zero value is ready.
type answers struct {
	mu   sync.Mutex // guards below
	next uint64
	live map[uint64]answer
}

type answer struct {
	by  Credential
	end func()
}

// WhileValid calls end when c is revoked, at once if it is already; end must not
// block. The caller calls done when the answer is over.
func (l *Link) WhileValid(c Credential, end func()) (done func()) {
	a := &l.answers
	a.mu.Lock()
	id := a.next
	a.next++
	if a.live == nil {
		a.live = map[uint64]answer{}
	}
	a.live[id] = answer{c, end}
	a.mu.Unlock()
	if l.State().CredentialRevoked(c) {
		end() // the revocation came between the check at the door and here
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.live, id)
	}
}

// endRevoked ends what the newest revocations void.
func (l *Link) endRevoked() {
	st := l.State()
	l.answers.mu.Lock()
	defer l.answers.mu.Unlock()
	for _, a := range l.answers.live {
		if st.CredentialRevoked(a.by) {
			a.end()
		}
	}
}
