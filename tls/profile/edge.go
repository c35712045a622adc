package profile

import "crypto/tls"

// EdgeNames is Edge for certificates by the name that the client asks for; nil
// without an error tells it that the name is not ours. extra are protocols
// offered beside HTTP's, such as that of RFC 8737, over which net/http serves no
// request. It panics if get is nil.
func EdgeNames(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), extra ...string) *tls.Config {
	if get == nil {
		panic("profile: EdgeNames needs a certificate")
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     append(protocols(), extra...),
		GetCertificate: get,
	}
}
