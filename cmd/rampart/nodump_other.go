//go:build !linux

package main

import "golang.org/x/sys/unix"

// noDump forbids core files; more this system does not offer.
func noDump() error { return noCore() }

func noCore() error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) }
