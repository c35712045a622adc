package control

import (
	"net/http"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets/rotate"
)

func (p *Plane) adminRotationRoutes() map[string]adminCall {
	return map[string]adminCall{
		"GET " + wire.AdminRotate:  p.adminRotations,
		"POST " + wire.AdminRotate: p.adminRotate,
	}
}

// adminRotations lists how far each credential is. One that has no row yet shows
// with its name alone.
func (p *Plane) adminRotations(r *http.Request, _ *audit.Event) (any, error) {
	out := []wire.Rotation{}
	for _, name := range p.rotationNames() {
		s, err := p.opt.Store.Rotation(r.Context(), name)
		if rampart.KindOf(err) == rampart.NotFound {
			s, err = rotate.State{Name: name, Step: rotate.Idle}, nil
		}
		if err != nil {
			return nil, unavailable(err)
		}
		shown, err := p.rotationOf(r.Context(), s)
		if err != nil {
			return nil, err
		}
		out = append(out, shown)
	}
	return out, nil
}

// adminRotate begins a rotation, or tries at once what failed before.
func (p *Plane) adminRotate(r *http.Request, e *audit.Event) (any, error) {
	var q wire.RotateNow
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	e.Resource = "rotation:" + q.Name[:min(len(q.Name), 100)]
	t, ok := p.rotations.targets[q.Name]
	if !ok {
		return nil, rampart.Errorf(rampart.NotFound, secretControl, "control: %.100q does not rotate; what does: %s", q.Name, strings.Join(p.rotationNames(), ", "))
	}
	s, err := p.rotations.engine.Start(r.Context(), t)
	if err != nil {
		return nil, err
	}
	return p.rotationOf(r.Context(), s)
}
