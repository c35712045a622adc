// Package kms is a key encryption key in AWS KMS, by the vendor's SDK. Package
// pkcs11 below it is one in a hardware module.
package kms

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/awssm"
)

// control is the id of this control in rampart.yaml and in errors.
const control = "secret.manager"

const (
	maxPlain   = 4096 // as KMS has it
	maxWrapped = 6144
)

// KEK is a symmetric key of KMS. What binds a wrapped key is its encryption
// context: AWS writes that into its own logs, so it holds the SHA-256 of the aad
// and nothing that names a person or a customer. Safe for concurrent use.
type KEK struct {
	key string
	api *kms.Client
}

var (
	_ secrets.KEK       = (*KEK)(nil)
	_ secrets.Rewrapper = (*KEK)(nil)
)

// New returns the KEK of a key, by its id or ARN. An alias is refused: pointed
// at another key, nothing would open any more. It asks nothing of KMS.
func New(ctx context.Context, a awssm.Account, key string) (*KEK, error) {
	if key == "" || strings.HasPrefix(key, "alias/") || strings.Contains(key, ":alias/") {
		return nil, rampart.Errorf(rampart.Invalid, control, "kms: write the id or ARN of the key: an alias can be pointed at another key, and then nothing opens")
	}
	cfg, err := a.Config(ctx)
	if err != nil {
		return nil, err
	}
	return &KEK{key, kms.NewFromConfig(cfg)}, nil
}

// KeyID implements secrets.KEK. KMS changes the material of a key by itself and
// opens what earlier material sealed: versions have no names.
func (k *KEK) KeyID() string { return "aws:" + k.key }

// String is KeyID.
func (k *KEK) String() string { return k.KeyID() }

// encryptionContext is what KMS demands again to decrypt.
func encryptionContext(aad []byte) map[string]string {
	sum := sha256.Sum256(aad)
	return map[string]string{"rampart": "kek-v1", "aad-sha256": hex.EncodeToString(sum[:])}
}

// Wrap implements secrets.KEK, for at most 4096 bytes.
func (k *KEK) Wrap(ctx context.Context, dek, aad []byte) ([]byte, error) {
	if len(dek) == 0 || len(dek) > maxPlain {
		return nil, rampart.Errorf(rampart.Internal, control, "kms: a key to wrap has 1 to %d bytes", maxPlain)
	}
	out, err := k.api.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String(k.key), Plaintext: dek, EncryptionContext: encryptionContext(aad)})
	if err != nil {
		return nil, k.wrap(err)
	}
	return out.CiphertextBlob, nil
}

// Unwrap implements secrets.KEK. Only this key is asked, whatever the bytes say.
func (k *KEK) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if err := fits(wrapped); err != nil {
		return nil, err
	}
	out, err := k.api.Decrypt(ctx, &kms.DecryptInput{KeyId: aws.String(k.key), CiphertextBlob: wrapped, EncryptionContext: encryptionContext(aad)})
	if err != nil {
		return nil, k.wrap(err)
	}
	return out.Plaintext, nil
}

// Rewrap implements secrets.Rewrapper: the plaintext does not leave KMS.
func (k *KEK) Rewrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if err := fits(wrapped); err != nil {
		return nil, err
	}
	same := encryptionContext(aad)
	out, err := k.api.ReEncrypt(ctx, &kms.ReEncryptInput{
		CiphertextBlob: wrapped, SourceKeyId: aws.String(k.key), DestinationKeyId: aws.String(k.key),
		SourceEncryptionContext: same, DestinationEncryptionContext: same,
	})
	if err != nil {
		return nil, k.wrap(err)
	}
	return out.CiphertextBlob, nil
}

func fits(wrapped []byte) error {
	if len(wrapped) == 0 || len(wrapped) > maxWrapped {
		return rampart.Errorf(rampart.Internal, control, "kms: a wrapped key has 1 to %d bytes", maxWrapped)
	}
	return nil
}

// wrap: bytes that do not open will not open later. Everything else (no network,
// no permission, a key that is disabled or waits to be deleted) somebody can put
// right, so it is Unavailable.
func (k *KEK) wrap(err error) error {
	kind, why := rampart.Unavailable, awssm.Reason(err)
	_, changed := errors.AsType[*types.InvalidCiphertextException](err)
	_, other := errors.AsType[*types.IncorrectKeyException](err)
	api, _ := errors.AsType[smithy.APIError](err)
	switch {
	case changed || other:
		kind, why = rampart.Internal, "the wrapped key does not open under it"
	case api != nil && api.ErrorCode() == "ValidationException":
		kind = rampart.Internal
	}
	return &rampart.Error{Kind: kind, Control: control, Msg: fmt.Sprintf("key %s: %s", k.KeyID(), why), Err: err}
}
