package spec

import (
	"fmt"
	"regexp"
)

// Join says how planes may prove who they are beside one-time tokens. Such a
// proof lasts: a plane that slept past the end of its certificate comes back by
// itself.
type Join struct {
	Socket     string              `yaml:"socket"`     // absolute path of the control plane's socket for unix; default: join in its state folder
	Kubernetes *KubernetesJoin     `yaml:"kubernetes"` // projected service-account tokens; nil: none count
	Unix       map[string]UnixJoin `yaml:"unix"`       // service, gateway or queue -> the process that is its plane, on the control plane's machine
}

// KubernetesJoin says which service accounts of one cluster are whose planes.
type KubernetesJoin struct {
	Issuer   string            `yaml:"issuer"`   // iss of its service-account tokens
	JWKS     string            `yaml:"jwks"`     // file of the cluster's keys (kubectl get --raw /openid/v1/jwks), *.json relative to rampart.yaml
	Audience string            `yaml:"audience"` // default rampart
	Accounts map[string]string `yaml:"accounts"` // NAMESPACE/NAME -> service, gateway or queue
}

// UnixJoin is what the kernel must say of a process. The user is the boundary:
// program and hash find mistakes, but nobody of the same user who means harm.
type UnixJoin struct {
	UID    *int   `yaml:"uid"`    // of its user, which no other plane of Join.Unix has
	Exe    string `yaml:"exe"`    // absolute path of its program
	SHA256 string `yaml:"sha256"` // of that file, lower-case hex; "": any content
}

const maxJoins = 1000

var (
	accountForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
	sha256Form  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func (j *Join) fill() {
	if j.Kubernetes != nil {
		or(&j.Kubernetes.Audience, "rampart")
	}
}

// join checks the proofs beside tokens.
func (c *checker) join(key string, j Join) {
	c.absolute(key+".socket", j.Socket)
	if j.Kubernetes != nil {
		c.kubernetes(key+".kubernetes", *j.Kubernetes)
	}
	if len(j.Unix) > maxJoins {
		c.bad(key+".unix", fmt.Sprintf("more than %d processes", maxJoins), "use fewer")
	}
	users := map[int]string{}
	for _, name := range inOrder(c, key+".unix", j.Unix) {
		u, at := j.Unix[name], join(key+".unix", name)
		c.planeOf(at, name)
		c.need(at, "uid", u.UID != nil, "1000")
		if u.UID != nil && (*u.UID < 0 || *u.UID > 1<<31-1) {
			c.bad(at+".uid", fmt.Sprintf("%d is no user id", *u.UID), "write the number that id -u prints")
		}
		if u.UID != nil {
			c.ownUser(at+".uid", *u.UID, name, users)
		}
		if c.need(at, "exe", u.Exe != "", "/usr/local/bin/rampart") {
			c.absolute(at+".exe", u.Exe)
		}
		c.match(at+".sha256", u.SHA256, sha256Form, "write what sha256sum prints")
	}
}

// ownUser demands a user for each plane. A process can hand its connection on and
// become any program that it may run, so that between planes of one user the
// kernel cannot tell.
func (c *checker) ownUser(at string, uid int, name string, users map[int]string) {
	if other, taken := users[uid]; taken {
		c.bad(at, fmt.Sprintf("user %d is that of %s already, and processes of one user can pass for each other", uid, other), "give each plane a user of its own, or a join token")
		return
	}
	users[uid] = name
}

func (c *checker) kubernetes(key string, k KubernetesJoin) {
	if c.need(key, "issuer", k.Issuer != "", "https://kubernetes.default.svc") {
		c.httpsURL(key+".issuer", k.Issuer)
	}
	if c.need(key, "jwks", k.JWKS != "", "cluster.json") {
		c.checkResource(key+".jwks", k.JWKS, ".json")
	}
	c.match(key+".audience", k.Audience, plainWordForm, "leave it out for rampart")
	if len(k.Accounts) > maxJoins {
		c.bad(key+".accounts", fmt.Sprintf("more than %d accounts", maxJoins), "use fewer")
	}
	c.need(key, "accounts", len(k.Accounts) > 0, "{ default/orders: orders }")
	for account, name := range k.Accounts {
		at := join(key+".accounts", account)
		c.match(at, account, accountForm, "write NAMESPACE/NAME of the service account")
		c.planeOf(at, name)
	}
}

// planeOf demands the name of something that has a plane: a service or a queue.
func (c *checker) planeOf(key, name string) {
	_, service := c.s.Services[name]
	if !service && c.s.Stores[name].Kind != "nats" {
		c.bad(key, fmt.Sprintf("%q is no service and no queue", shorten(name)), "use a name of services, or of stores with kind nats")
	}
}
