package problem

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart"
)

// Codes of gRPC (google.rpc.Code) that refusals are told by.
const (
	GRPCUnknown         = 2
	GRPCInvalidArgument = 3
	GRPCDeadline        = 4
	GRPCDenied          = 7
	GRPCExhausted       = 8
	GRPCAborted         = 10
	GRPCUnimplemented   = 12
	GRPCInternal        = 13
	GRPCUnavailable     = 14
	GRPCUnauthenticated = 16
)

// GRPCStatus returns the gRPC code that WriteGRPC would send for err. What no
// document declares, or is asked for in a form that is not spoken here, is
// unimplemented: that is how gRPC reads 404, 405 and 415.
func GRPCStatus(err error) int {
	switch Status(err) {
	case http.StatusBadRequest:
		return GRPCInvalidArgument
	case http.StatusUnauthorized:
		return GRPCUnauthenticated
	case http.StatusForbidden:
		return GRPCDenied
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType:
		return GRPCUnimplemented
	case http.StatusConflict:
		return GRPCAborted
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		return GRPCExhausted
	case http.StatusGatewayTimeout:
		return GRPCDeadline
	case http.StatusServiceUnavailable, http.StatusBadGateway:
		return GRPCUnavailable
	}
	if rampart.KindOf(err) == rampart.Invalid {
		return GRPCInvalidArgument
	}
	return GRPCInternal
}

// WriteGRPC answers a gRPC call that did not reach its service: status 200, and
// the code with its text in the head, with nothing behind it (the "Trailers-Only"
// of the gRPC protocol over HTTP/2). It tells as much as Write does, and no more.
func WriteGRPC(w http.ResponseWriter, err error) {
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	begin(h, Status(err), detailsOf(err))
	h["Content-Length"] = nil // a head that ends the stream; net/http would write 0
	h.Set("Grpc-Status", strconv.Itoa(GRPCStatus(err)))
	h.Set("Grpc-Message", GRPCMessage(err))
	w.WriteHeader(http.StatusOK)
}

// GRPCMessage is Message in the percent encoding of grpc-message.
func GRPCMessage(err error) string {
	var out strings.Builder
	for _, c := range []byte(Message(err)) {
		if c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&out, "%%%02X", c)
			continue
		}
		out.WriteByte(c)
	}
	return out.String()
}
