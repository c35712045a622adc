package awssm

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/rampart-security/rampart"
)

// Account says how AWS is reached. Region and HTTP are needed.
type Account struct {
	Region   string
	Endpoint string       // https://HOST[:PORT] instead of the region's; "": that of the region
	HTTP     *http.Client // verifies TLS; it must not follow redirects

	// Credentials sign requests. If nil they are found as the SDK does: a web
	// identity (Kubernetes), the shared files of this user, the container's or the
	// machine's role; keys in the environment are refused.
	Credentials aws.CredentialsProvider
}

// attempts of one call: what a caller bounds in time must not wait for many.
const attempts = 2

// Config returns the configuration of the SDK's clients. Errors are of kind
// Invalid. It may ask the machine which role it has, not AWS.
func (a Account) Config(ctx context.Context) (aws.Config, error) {
	if a.Region == "" || a.HTTP == nil {
		return aws.Config{}, rampart.Errorf(rampart.Invalid, control, "a region and an HTTP client are needed")
	}
	if err := a.noKeysInEnvironment(); err != nil {
		return aws.Config{}, err
	}
	opts := []func(*config.LoadOptions) error{
		config.WithRegion(a.Region),
		config.WithRetryer(func() aws.Retryer { return retry.AddWithMaxAttempts(retry.NewStandard(), attempts) }),
	}
	if a.Credentials != nil {
		opts = append(opts, config.WithCredentialsProvider(a.Credentials))
	}
	cfg, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return aws.Config{}, &rampart.Error{Kind: rampart.Invalid, Control: control, Msg: "the configuration of the AWS SDK cannot be read", Err: err}
	}
	// What the environment says of addresses and authorities (AWS_ENDPOINT_URL,
	// AWS_CA_BUNDLE) does not count: rampart.yaml says where secrets come from. It
	// counts for how credentials are had, which is the machine's affair.
	cfg.BaseEndpoint, cfg.ConfigSources, cfg.HTTPClient = nil, nil, a.HTTP
	if a.Endpoint != "" {
		cfg.BaseEndpoint = aws.String(a.Endpoint)
	}
	return cfg, nil
}

// noKeysInEnvironment refuses what every child process and every core dump
// shows. To leave such keys out in silence would sign as somebody else than
// whoever set them believes.
func (a Account) noKeysInEnvironment() error {
	if a.Credentials != nil {
		return nil
	}
	env, err := config.NewEnvConfig()
	if err == nil && !env.Credentials.HasKeys() && env.ContainerAuthorizationToken == "" {
		return nil
	}
	if err == nil {
		err = errors.New("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or AWS_CONTAINER_AUTHORIZATION_TOKEN is set")
	}
	return rampart.Errorf(rampart.Invalid, control, "%s", fmt.Sprintf("AWS keys do not come from the environment: give the machine or pod a role, or use the shared credentials file (%v)", err))
}
