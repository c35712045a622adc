package main

import (
	"os"

	"github.com/rampart-security/rampart/sidecar"
	"github.com/rampart-security/rampart/spec"
)

// makeHeld makes a folder in memory for each service that holds credentials as
// files. A folder that a killed run left behind is memory of the machine until
// it restarts; nobody else can enter it.
func (u *up) makeHeld() error {
	u.held = map[string]string{}
	for name, svc := range u.sys.Services {
		if !deliversFiles(svc) {
			continue
		}
		folder, err := sidecar.NewMemoryFolder()
		if err != nil {
			u.removeHeld()
			return err
		}
		u.held[name] = folder
	}
	return nil
}

func deliversFiles(svc spec.Service) bool {
	for _, how := range svc.Secrets {
		if how == spec.DeliverFile {
			return true
		}
	}
	return false
}

// removeHeld removes the folders. The sidecars have emptied them.
func (u *up) removeHeld() {
	for _, folder := range u.held {
		os.RemoveAll(folder)
	}
}
