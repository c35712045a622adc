package awstest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

type secret struct {
	versions []*version
	deleted  time.Time
}

type version struct {
	id      string
	text    *string
	bytes   []byte
	stages  []string
	created time.Time
}

// seconds is a time as JSON 1.1 has it.
type seconds float64

func at(t time.Time) seconds { return seconds(t.Unix()) }

// Set stores a value as somebody else than our client would: its version has a
// random token.
func (s *Server) Set(path, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token := fmt.Sprintf("%08x-0000-4000-8000-000000000000", s.tick().Unix())
	if s.secrets[path] == nil {
		s.secrets[path] = &secret{}
	}
	s.secrets[path].add(&version{id: token, text: &value, created: s.now})
}

// Stage marks the version that was stored last otherwise, as a rotation that is
// not done does with AWSPENDING.
func (s *Server) Stage(path, value, stage string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.secrets[path]
	x.versions = append(x.versions, &version{id: fmt.Sprintf("%08x-0000-4000-8000-000000000000", s.tick().Unix()), text: &value, stages: []string{stage}, created: s.now})
}

// DeleteLater deletes a secret as the console does: it could be restored.
func (s *Server) DeleteLater(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[path].deleted = s.tick()
}

// add makes a version the current one, and the current one the previous.
func (x *secret) add(v *version) {
	for _, old := range x.versions {
		was := slices.Contains(old.stages, "AWSCURRENT")
		old.stages = slices.DeleteFunc(old.stages, func(s string) bool { return s == "AWSCURRENT" || s == "AWSPREVIOUS" })
		if was {
			old.stages = append(old.stages, "AWSPREVIOUS")
		}
	}
	v.stages = []string{"AWSCURRENT"}
	x.versions = append(x.versions, v)
}

// find returns a secret that is there.
func (s *Server) find(id string) (*secret, *fault) {
	if s.denied[id] {
		return nil, bad("AccessDeniedException", "User is not authorized to perform this on "+id)
	}
	x := s.secrets[id]
	if x == nil {
		return nil, bad("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
	}
	if !x.deleted.IsZero() {
		return nil, bad("InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion.")
	}
	return x, nil
}

func arn(id string) string {
	return "arn:aws:secretsmanager:" + Region + ":111122223333:secret:" + id + "-AbCdEf"
}

func (s *Server) getSecretValue(body []byte) (any, *fault) {
	q, f := in[struct{ SecretId, VersionId, VersionStage string }](body)
	if f != nil {
		return nil, f
	}
	x, f := s.find(q.SecretId)
	if f != nil {
		return nil, f
	}
	stage := q.VersionStage
	if q.VersionId == "" {
		stage = cmp.Or(stage, "AWSCURRENT")
	}
	for _, v := range x.versions {
		if (q.VersionId == "" || v.id == q.VersionId) && (stage == "" || slices.Contains(v.stages, stage)) {
			return struct {
				ARN, Name, VersionId string
				SecretString         *string `json:",omitempty"`
				SecretBinary         []byte  `json:",omitempty"`
				VersionStages        []string
				CreatedDate          seconds
			}{arn(q.SecretId), q.SecretId, v.id, v.text, v.bytes, v.stages, at(v.created)}, nil
		}
	}
	return nil, bad("ResourceNotFoundException", "Secrets Manager can't find the specified secret value for staging label or version.")
}

type putRequest struct {
	SecretId, Name, ClientRequestToken string
	SecretString                       *string
	SecretBinary                       []byte
}

func (q putRequest) check() *fault {
	n := len(q.SecretBinary)
	if q.SecretString != nil {
		n = len(*q.SecretString)
	}
	switch {
	case len(q.ClientRequestToken) < 32 || len(q.ClientRequestToken) > 64:
		return bad("InvalidParameterException", "ClientRequestToken has 32 to 64 characters")
	case (q.SecretString != nil) == (q.SecretBinary != nil) || n == 0 || n > 65536:
		return bad("InvalidParameterException", "one value of 1 to 65536 bytes")
	}
	return nil
}

func (s *Server) putSecretValue(body []byte) (any, *fault) {
	q, f := in[putRequest](body)
	if f == nil {
		f = q.check()
	}
	if f != nil {
		return nil, f
	}
	x, f := s.find(q.SecretId)
	if f != nil {
		return nil, f
	}
	return s.put(x, q.SecretId, q)
}

func (s *Server) put(x *secret, id string, q putRequest) (any, *fault) {
	for _, v := range x.versions {
		if v.id != q.ClientRequestToken {
			continue
		}
		same := slices.Equal(v.bytes, q.SecretBinary) && (v.text == nil) == (q.SecretString == nil) && (v.text == nil || *v.text == *q.SecretString)
		if !same {
			return nil, bad("ResourceExistsException", "You can't create this version because it exists with another value.")
		}
		return s.made(id, v), nil
	}
	v := &version{id: q.ClientRequestToken, text: q.SecretString, bytes: q.SecretBinary, created: s.tick()}
	x.add(v)
	return s.made(id, v), nil
}

func (s *Server) made(id string, v *version) any {
	return struct {
		ARN, Name, VersionId string
		VersionStages        []string
	}{arn(id), id, v.id, v.stages}
}

func (s *Server) createSecret(body []byte) (any, *fault) {
	q, f := in[putRequest](body)
	if f == nil {
		f = q.check()
	}
	if f != nil {
		return nil, f
	}
	if x := s.secrets[q.Name]; x != nil {
		if len(x.versions) > 0 && x.versions[0].id == q.ClientRequestToken {
			return s.put(x, q.Name, q)
		}
		return nil, bad("ResourceExistsException", "The operation failed because the secret already exists.")
	}
	x := &secret{}
	s.secrets[q.Name] = x
	return s.put(x, q.Name, q)
}

func (s *Server) deleteSecret(body []byte) (any, *fault) {
	q, f := in[struct {
		SecretId                   string
		ForceDeleteWithoutRecovery bool
		RecoveryWindowInDays       int
	}](body)
	if f != nil {
		return nil, f
	}
	if s.secrets[q.SecretId] == nil && !q.ForceDeleteWithoutRecovery {
		return nil, bad("ResourceNotFoundException", "no such secret")
	}
	if q.ForceDeleteWithoutRecovery {
		delete(s.secrets, q.SecretId)
	} else {
		s.secrets[q.SecretId].deleted = s.tick()
	}
	return struct {
		ARN, Name    string
		DeletionDate seconds
	}{arn(q.SecretId), q.SecretId, at(s.tick())}, nil
}

// page cuts a list as AWS does, few at a time so that clients must go on.
func page[T any](all []T, token string) ([]T, string, *fault) {
	const few = 3
	from := 0
	if token != "" {
		n, err := strconv.Atoi(token)
		if err != nil || n > len(all) {
			return nil, "", bad("InvalidNextTokenException", "no such page")
		}
		from = n
	}
	if from+few >= len(all) {
		return all[from:], "", nil
	}
	return all[from : from+few], strconv.Itoa(from + few), nil
}

func (s *Server) listVersions(body []byte) (any, *fault) {
	q, f := in[struct {
		SecretId, NextToken string
		IncludeDeprecated   bool
		MaxResults          int
	}](body)
	if f != nil {
		return nil, f
	}
	x, f := s.find(q.SecretId)
	if f != nil {
		return nil, f
	}
	type entry struct {
		VersionId     string
		VersionStages []string
		CreatedDate   seconds
	}
	var all []entry
	for _, v := range x.versions {
		if q.IncludeDeprecated || len(v.stages) > 0 {
			all = append(all, entry{v.id, v.stages, at(v.created)})
		}
	}
	list, next, f := page(all, q.NextToken)
	return struct {
		ARN, Name string
		Versions  []entry
		NextToken string `json:",omitempty"`
	}{arn(q.SecretId), q.SecretId, list, next}, f
}

func (s *Server) listSecrets(body []byte) (any, *fault) {
	q, f := in[struct {
		NextToken  string
		MaxResults int
		Filters    []struct {
			Key    string
			Values []string
		}
	}](body)
	if f != nil {
		return nil, f
	}
	type entry struct {
		ARN, Name              string
		LastChangedDate        seconds
		SecretVersionsToStages map[string][]string
	}
	var all []entry
	for _, name := range slices.Sorted(maps.Keys(s.secrets)) {
		x := s.secrets[name]
		if !x.deleted.IsZero() || len(q.Filters) > 0 && !strings.HasPrefix(name, q.Filters[0].Values[0]) {
			continue
		}
		stages := map[string][]string{}
		var last time.Time
		for _, v := range x.versions {
			last = v.created
			if len(v.stages) > 0 {
				stages[v.id] = v.stages
			}
		}
		all = append(all, entry{arn(name), name, at(last), stages})
	}
	list, next, f := page(all, q.NextToken)
	return struct {
		SecretList []entry
		NextToken  string `json:",omitempty"`
	}{list, next}, f
}
