// Package awssm keeps secrets in AWS Secrets Manager, by the vendor's SDK.
//
// AWS names versions by tokens and marks one as AWSCURRENT. Versions that are
// put here have tokens that hold their number, so that they count and of two
// writers of one number AWS refuses the second. Those that others put, a
// rotation function for example, have no number: Version is 0.
package awssm

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/smithy-go"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

// control is the id of this control in rampart.yaml and in errors.
const control = "secret.manager"

const (
	maxPath   = 256
	maxValue  = 64 << 10 // as AWS has it, and the embedded store
	maxListed = 10000
	pageSize  = 100
	current   = "AWSCURRENT"
	races     = 5 // of a Put that waits for no version
	maxToken  = 1<<31 - 1
)

// Backend is one account and region. Safe for concurrent use.
type Backend struct {
	name string
	api  *secretsmanager.Client
}

// New returns a backend. name is what rampart.yaml calls it. It asks nothing of
// AWS.
func New(ctx context.Context, name string, a Account) (*Backend, error) {
	cfg, err := a.Config(ctx)
	if err != nil {
		return nil, err
	}
	return &Backend{name, secretsmanager.NewFromConfig(cfg)}, nil
}

// String names the backend alone.
func (b *Backend) String() string { return "aws " + b.name }

// GoString is String.
func (b *Backend) GoString() string { return b.String() }

// Fetch implements secrets.Backend: the version that is AWSCURRENT. With a field
// the secret is a JSON object, and its member of that name a text, number or
// truth value; the User of the field password is the member username, as AWS
// writes secrets of databases.
func (b *Backend) Fetch(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
	return b.get(ctx, ref, &secretsmanager.GetSecretValueInput{VersionStage: aws.String(current)})
}

// FetchVersion implements secrets.Versions, for versions that were put here.
func (b *Backend) FetchVersion(ctx context.Context, ref secrets.Ref, version int) (secrets.Secret, error) {
	if version < 1 {
		return secrets.Secret{}, rampart.Errorf(rampart.Invalid, control, "versions count from 1")
	}
	return b.get(ctx, ref, &secretsmanager.GetSecretValueInput{VersionId: aws.String(tokenOf(version))})
}

func (b *Backend) get(ctx context.Context, ref secrets.Ref, in *secretsmanager.GetSecretValueInput) (secrets.Secret, error) {
	if err := checkPath(ref.Path); err != nil {
		return secrets.Secret{}, err
	}
	in.SecretId = aws.String(ref.Path)
	out, err := b.api.GetSecretValue(ctx, in)
	if err != nil {
		return secrets.Secret{}, b.wrap(ref.Path, err)
	}
	value := out.SecretBinary
	if out.SecretString != nil {
		value = []byte(*out.SecretString)
	}
	defer clear(value)
	if len(value) == 0 || len(value) > maxValue {
		return secrets.Secret{}, rampart.Errorf(rampart.Internal, control, "secret %s of backend %s has not 1 to %d bytes", ref.Path, b.name, maxValue)
	}
	m := secrets.Meta{Version: numberOf(aws.ToString(out.VersionId))}
	if ref.Field == "" {
		return secrets.Make(value, m), nil
	}
	picked, user, err := pick(value, ref.Field)
	if err != nil {
		return secrets.Secret{}, rampart.Errorf(rampart.KindOf(err), control, "secret %s of backend %s: %v", ref.Path, b.name, err)
	}
	defer clear(picked)
	m.User = user
	return secrets.Make(picked, m), nil
}

// Put implements secrets.Writer. The new version becomes AWSCURRENT.
func (b *Backend) Put(ctx context.Context, path string, value []byte, after int) (int, error) {
	if err := checkPath(path); err != nil {
		return 0, err
	}
	if len(value) == 0 || len(value) > maxValue {
		return 0, rampart.Errorf(rampart.Invalid, control, "a secret has 1 to %d bytes", maxValue)
	}
	var err error
	for range races {
		var newest, version int
		if newest, err = b.newest(ctx, path); err != nil {
			return 0, err
		}
		if after >= 0 && newest != after {
			return 0, conflict(newest)
		}
		if version, err = b.putNext(ctx, path, value, newest); rampart.KindOf(err) != rampart.Conflict || after >= 0 {
			return version, err
		}
	}
	return 0, err
}

func conflict(newest int) error {
	return rampart.Errorf(rampart.Conflict, control, "the newest version is %d", newest)
}

// newest returns the greatest number that a version has, 0 if the secret is not
// there.
func (b *Backend) newest(ctx context.Context, path string) (int, error) {
	newest := 0
	pages := secretsmanager.NewListSecretVersionIdsPaginator(b.api, &secretsmanager.ListSecretVersionIdsInput{
		SecretId: aws.String(path), IncludeDeprecated: aws.Bool(true), MaxResults: aws.Int32(pageSize),
	})
	for range maxListed / pageSize {
		if !pages.HasMorePages() {
			break
		}
		page, err := pages.NextPage(ctx)
		if err != nil {
			err = b.wrap(path, err)
			if rampart.KindOf(err) == rampart.NotFound {
				return 0, nil
			}
			return 0, err
		}
		for _, v := range page.Versions {
			newest = max(newest, numberOf(aws.ToString(v.VersionId)))
		}
	}
	return newest, nil
}

func (b *Backend) putNext(ctx context.Context, path string, value []byte, newest int) (int, error) {
	token, text, raw := aws.String(tokenOf(newest+1)), (*string)(nil), value
	if utf8.Valid(value) {
		text, raw = aws.String(string(value)), nil
	}
	_, err := b.api.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{SecretId: aws.String(path), ClientRequestToken: token, SecretString: text, SecretBinary: raw})
	if newest == 0 && rampart.KindOf(b.wrap(path, err)) == rampart.NotFound && err != nil {
		_, err = b.api.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: aws.String(path), ClientRequestToken: token, SecretString: text, SecretBinary: raw})
	}
	if _, taken := errors.AsType[*types.ResourceExistsException](err); taken {
		return 0, conflict(newest + 1)
	}
	if err != nil {
		return 0, b.wrap(path, err)
	}
	return newest + 1, nil
}

// List implements secrets.Writer.
func (b *Backend) List(ctx context.Context, prefix string) ([]secrets.Listed, error) {
	in := &secretsmanager.ListSecretsInput{MaxResults: aws.Int32(pageSize)}
	if prefix != "" {
		if err := checkPath(prefix); err != nil {
			return nil, err
		}
		in.Filters = []types.Filter{{Key: types.FilterNameStringTypeName, Values: []string{prefix + "/"}}}
	}
	var out []secrets.Listed
	for pages := secretsmanager.NewListSecretsPaginator(b.api, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, b.wrap(prefix, err)
		}
		for _, s := range page.SecretList {
			if l := listed(s); prefix == "" || strings.HasPrefix(l.Path, prefix+"/") {
				out = append(out, l)
			}
		}
		if len(out) > maxListed {
			return nil, rampart.Errorf(rampart.Invalid, control, "backend %s has more than %d secrets there: list a longer prefix", b.name, maxListed)
		}
	}
	slices.SortFunc(out, func(a, b secrets.Listed) int { return cmp.Compare(a.Path, b.Path) })
	return out, nil
}

func listed(s types.SecretListEntry) secrets.Listed {
	l := secrets.Listed{Path: aws.ToString(s.Name), Created: aws.ToTime(s.LastChangedDate)}
	for id, stages := range s.SecretVersionsToStages {
		if slices.Contains(stages, current) {
			l.Version = numberOf(id)
		}
	}
	return l
}

// Destroy implements secrets.Writer, for a whole secret: AWS has no way to
// destroy one version at once, so that is Invalid. A whole one goes without the
// days in which it could be restored.
func (b *Backend) Destroy(ctx context.Context, path string, version int) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if version != 0 {
		return rampart.Errorf(rampart.Invalid, control, "AWS Secrets Manager destroys a secret with all its versions, never one of them")
	}
	_, err := b.api.DeleteSecret(ctx, &secretsmanager.DeleteSecretInput{SecretId: aws.String(path), ForceDeleteWithoutRecovery: aws.Bool(true)})
	if err != nil {
		return b.wrap(path, err)
	}
	return nil
}

var pathForm = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$`)

func checkPath(path string) error {
	ok := len(path) <= maxPath && pathForm.MatchString(path)
	for seg := range strings.SplitSeq(path, "/") {
		ok = ok && seg != "." && seg != ".."
	}
	if !ok {
		return rampart.Errorf(rampart.Invalid, control, "a secret's path is letters, digits and . _ - in segments between slashes, at most %d bytes", maxPath)
	}
	return nil
}

// Tokens of versions have 32 to 64 bytes at AWS.
const tokenForm = "rampart-version-%016d"

func tokenOf(version int) string { return fmt.Sprintf(tokenForm, version) }

func numberOf(token string) int {
	digits, ok := strings.CutPrefix(token, "rampart-version-")
	n, err := strconv.ParseUint(digits, 10, 63)
	if !ok || err != nil || n > maxToken || tokenOf(int(n)) != token {
		return 0
	}
	return int(n)
}

func (b *Backend) wrap(path string, err error) error {
	if err == nil {
		return nil
	}
	e := &rampart.Error{Kind: KindOf(err), Control: control, Msg: fmt.Sprintf("secret %s of backend %s: %s", path, b.name, Reason(err)), Err: err}
	if wait := retryAfter(err); wait > 0 {
		e.Err = secrets.Busy(wait)
	}
	return e
}

// KindOf says what an error of the SDK means. What AWS did not answer, or will
// answer otherwise later, is Unavailable; so are credentials that cannot be had.
func KindOf(err error) rampart.Kind {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return rampart.Unavailable
	}
	switch code := api.ErrorCode(); code {
	case "ResourceNotFoundException", "NotFoundException":
		return rampart.NotFound
	case "InvalidRequestException": // deleted, or waiting to be
		return rampart.NotFound
	case "AccessDeniedException", "AccessDenied":
		return rampart.Denied
	case "UnrecognizedClientException", "InvalidSignatureException", "MissingAuthenticationTokenException", "ExpiredTokenException",
		"InvalidClientTokenId", "IncompleteSignature", "InvalidIdentityToken", "SignatureDoesNotMatch":
		return rampart.Unauthenticated
	case "ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "LimitExceededException":
		return rampart.Limited
	case "InvalidParameterException", "ValidationException":
		return rampart.Invalid
	}
	return rampart.Unavailable
}

// Reason words an error of the SDK without what AWS wrote: that may repeat what
// was sent.
func Reason(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return "AWS answers " + shorten(api.ErrorCode())
	}
	if tlsErr, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the certificate of AWS does not verify: " + tlsErr.Err.Error()
	}
	if _, ok := errors.AsType[*smithy.CanceledError](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return "AWS did not answer in time"
	}
	return "AWS cannot be reached, or no credentials for it can be had"
}

func shorten(code string) string { return code[:min(len(code), 64)] }

// retryAfter is how long AWS wants us to wait; 0: it does not say.
func retryAfter(err error) time.Duration {
	res, ok := errors.AsType[*awshttp.ResponseError](err)
	if !ok || res.Response == nil {
		return 0
	}
	n, err := strconv.Atoi(http.Header(res.Response.Header).Get("Retry-After"))
	if err != nil || n < 0 || n > 3600 {
		return 0
	}
	return time.Duration(n) * time.Second
}
