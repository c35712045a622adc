package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// noDump keeps a plane's memory to itself: no core file is written when it
// dies, and another process of the same user can neither attach to it nor read
// its memory, whatever of keys and secrets is there. Root still can.
func noDump() error {
	if err := noCore(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("memory cannot be closed to other processes: %w", err)
	}
	return nil
}

// noCore forbids core files of this process and of those that it starts.
func noCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("core files cannot be forbidden: %w", err)
	}
	return nil
}
