package main

import (
	"fmt"
	"math"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/statedir"
)

// workloadSocket is where a service finds the SPIFFE Workload API, unless a flag
// says otherwise: beside its sidecar's socket. No service has a dot in its name.
func workloadSocket(state *statedir.Dir, service string) (string, error) {
	return state.Socket(service + ".workload")
}

// workloadFlags say where a sidecar serves the Workload API, and to whom.
type workloadFlags struct {
	socket string
	uids   []uint
}

func (w *workloadFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&w.socket, "workload-socket", "", "path of the SPIFFE Workload API's socket, mode 0660, instead of one in the state folder")
	fl.UintSliceVar(&w.uids, "workload-uid", nil, "user whose processes get the service's certificate there, instead of the sidecar's own; may be repeated")
}

func (w *workloadFlags) path(state *statedir.Dir, service string) (string, error) {
	for _, uid := range w.uids {
		if uint64(uid) > math.MaxUint32 {
			return "", fmt.Errorf("--workload-uid %d is no user id", uid)
		}
	}
	if w.socket != "" {
		return w.socket, nil
	}
	return workloadSocket(state, service)
}

func (w *workloadFlags) users() []uint32 {
	var out []uint32
	for _, uid := range w.uids {
		out = append(out, uint32(uid))
	}
	return out
}
