package spec

import "strings"

// AdmitUnsafe refuses a file that switches controls off, unless the state
// folder is a throw-away one. Every plane and the control plane call it before
// they serve.
func (s *System) AdmitUnsafe(throwaway bool) error {
	if len(s.Unsafe.Disable) == 0 || throwaway {
		return nil
	}
	own := newReport(bundleName)
	if s.source != nil {
		own.file, own.at = s.source.file, s.source.at
	}
	own.bad("unsafe.disable", "switches off "+strings.Join(s.Unsafe.Disable, ", ")+", which only a throw-away state folder may do", "remove the unsafe block")
	return own.err()
}
