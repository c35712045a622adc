package planelink

import "sync"

// answers are those under way, so that a revocation can end them: one that
// streams would go on for as long as it likes. The zero value is ready.
type answers struct {
	mu    sync.Mutex // guards below, and what links those that are in it
	first *Watched
}

// Watched is one answer under way. The zero value is ready, for one answer.
type Watched struct {
	of         *answers // nil: it is over, or has not begun
	by         Credential
	end        Ender
	prev, next *Watched
}

// Ender is what a revocation ends. End must not block.
type Ender interface{ End(cause error) }

// Watch ends an answer when c is revoked, at once if it is already. The caller calls
// Over when the answer is over.
func (l *Link) Watch(w *Watched, c Credential, end Ender) {
	w.by, w.end = c, end
	l.answers.add(w)
	if l.State().CredentialRevoked(c) {
		end.End(nil) // the revocation came between the check at the door and here
	}
}

func (a *answers) add(w *Watched) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.of, w.next = a, a.first
	if w.next != nil {
		w.next.prev = w
	}
	a.first = w
}

// Over says that the answer is over; again, it does nothing.
func (w *Watched) Over() {
	a := w.of
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		a.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	}
	w.of, w.prev, w.next = nil, nil, nil
}

// WhileValid calls end when c is revoked, at once if it is already; end must not
// block. The caller calls done when the answer is over.
func (l *Link) WhileValid(c Credential, end func()) (done func()) {
	w := new(Watched)
	l.Watch(w, c, ender(end))
	return w.Over
}

type ender func()

// End implements Ender.
func (f ender) End(error) { f() }

// endRevoked ends what the newest revocations void.
func (l *Link) endRevoked() {
	st := l.State()
	l.answers.mu.Lock()
	defer l.answers.mu.Unlock()
	for w := l.answers.first; w != nil; w = w.next {
		if st.CredentialRevoked(w.by) {
			w.end.End(nil)
		}
	}
}
