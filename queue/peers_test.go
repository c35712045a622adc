package queue_test

import (
	"testing"
	"time"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/queue"
)

// TestDisabledServiceIsCutOff: the broker's open connection of a service that was
// disabled ends and does not come back; another's lives on.
func TestDisabledServiceIsCutOff(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	q, _ := start(t, h, t.TempDir())
	h.Until("the streams are there", inside(t, q).ready)
	link := h.Link(h.Options("service/stock", "sidecar/stock"))
	victim, err := dial(h, link, q, "stock")
	must(t, err)
	t.Cleanup(victim.Close)
	shop := connect(t, h, q, "shop")
	h.Revoke("svid", h.System.ServiceID("stock"))
	h.Until("its connection is closed", victim.IsClosed)
	if again, err := dial(h, link, q, "stock"); err == nil {
		again.Close()
		t.Error("it came back")
	}
	if !shop.nc.IsConnected() {
		t.Error("another was cut off too")
	}
	for _, e := range h.Events("queue_events") {
		if e.Action == "connection.drop" && e.Subject == h.System.ServiceID("stock") {
			return
		}
	}
	t.Error("it is not on record")
}

// TestConnectionEndsWithItsCertificate, a moment after; and with a certificate
// that lives the peer comes again.
func TestConnectionEndsWithItsCertificate(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	q, _ := start(t, h, t.TempDir())
	h.Until("the streams are there", inside(t, q).ready)
	link := h.Link(h.Options("service/stock", "sidecar/stock"))
	nc, err := dial(h, link, q, "stock")
	must(t, err)
	t.Cleanup(nc.Close)
	mine, err := link.Source().Current()
	must(t, err)
	queue.DropRefused(q, mine.NotAfter.Add(10*time.Second))
	must(t, nc.Flush())
	queue.DropRefused(q, mine.NotAfter.Add(time.Minute))
	h.Until("its connection is closed", nc.IsClosed)
	again, err := dial(h, link, q, "stock")
	must(t, err)
	again.Close()
	for _, e := range h.Events("queue_events") {
		if e.Action == "connection.drop" && e.Subject == h.System.ServiceID("stock") && e.Control == "mtls.required" {
			return
		}
	}
	t.Error("it is not on record")
}
