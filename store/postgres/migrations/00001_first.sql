-- +goose Up

-- Times are nanoseconds since 1970 in UTC, 0 for none. Texts compare by their
-- bytes, as they do in SQLite. What has no column of its own is in data.

CREATE DOMAIN bytes32 AS BYTEA CHECK (octet_length(VALUE) = 32);
CREATE DOMAIN ident AS TEXT COLLATE "C" CHECK (VALUE <> '');
CREATE DOMAIN moment AS BIGINT CHECK (VALUE > 0);
CREATE DOMAIN object AS TEXT CHECK (json_typeof(VALUE::json) = 'object');

CREATE TABLE meta (
    key   ident PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE users (
    name    ident PRIMARY KEY CHECK (length(name) <= 64),
    hash    TEXT NOT NULL CHECK (hash = '' OR hash LIKE '$argon2id$%' OR hash LIKE '$2_$%' OR hash LIKE '$scrypt$%' OR hash LIKE '$pbkdf2-sha%$%'), -- '': no password
    facts   object NOT NULL,
    changed moment NOT NULL,
    data    object NOT NULL
);

CREATE TABLE logins ( -- from where accounts have logged in
    name    ident REFERENCES users (name) ON DELETE CASCADE,
    address TEXT COLLATE "C" CHECK (length(address) <= 64),
    seen    moment NOT NULL,
    PRIMARY KEY (name, address)
);

CREATE TABLE links ( -- of accounts at identity providers
    issuer     ident,
    upstream   ident,
    subject    ident NOT NULL,
    created    moment NOT NULL,
    last_login BIGINT NOT NULL CHECK (last_login >= 0),
    PRIMARY KEY (issuer, upstream)
);
CREATE INDEX links_subject ON links (subject);

CREATE TABLE sessions (
    key              bytes32 PRIMARY KEY,
    sid              ident NOT NULL UNIQUE,
    subject          ident NOT NULL,
    created          moment NOT NULL,
    last_seen        moment NOT NULL,
    expires          moment NOT NULL,
    upstream_issuer  ident, -- NULL: a local login
    upstream_subject ident,
    upstream_sid     ident,
    data             object NOT NULL
);
CREATE INDEX sessions_subject ON sessions (subject, created);
CREATE INDEX sessions_seen ON sessions (last_seen);
CREATE INDEX sessions_expires ON sessions (expires);
CREATE INDEX sessions_upstream ON sessions (upstream_issuer, upstream_subject) WHERE upstream_issuer IS NOT NULL;
CREATE INDEX sessions_upstream_sid ON sessions (upstream_issuer, upstream_sid) WHERE upstream_sid IS NOT NULL;

CREATE TABLE clients (
    id        ident PRIMARY KEY CHECK (length(id) <= 64),
    principal ident NOT NULL,
    data      object NOT NULL
);

CREATE TABLE api_keys (
    id        ident PRIMARY KEY,
    hash      bytes32 NOT NULL,
    client    ident NOT NULL REFERENCES clients (id) ON DELETE CASCADE,
    disabled  BOOLEAN NOT NULL,
    created   moment NOT NULL,
    last_used BIGINT NOT NULL CHECK (last_used >= 0),
    data      object NOT NULL
);
CREATE INDEX api_keys_client ON api_keys (client);

CREATE TABLE refresh_tokens ( -- families: the tokens are derived, not stored
    family     ident PRIMARY KEY,
    generation BIGINT NOT NULL CHECK (generation >= 0),
    rotated    moment NOT NULL,
    client     ident NOT NULL REFERENCES clients (id) ON DELETE CASCADE,
    subject    ident NOT NULL,
    sid        TEXT COLLATE "C" NOT NULL,
    auth_time  moment NOT NULL,
    expires    BIGINT NOT NULL CHECK (expires <= absolute),
    absolute   moment NOT NULL,
    revoked    BOOLEAN NOT NULL,
    data       object NOT NULL
);
CREATE INDEX refresh_tokens_subject ON refresh_tokens (subject);
CREATE INDEX refresh_tokens_sid ON refresh_tokens (sid);
CREATE INDEX refresh_tokens_client ON refresh_tokens (client);

CREATE TABLE codes (
    hash      bytes32 PRIMARY KEY,
    client    ident NOT NULL REFERENCES clients (id) ON DELETE CASCADE,
    redirect  ident NOT NULL,
    challenge TEXT NOT NULL CHECK (length(challenge) = 43),
    subject   ident NOT NULL,
    sid       TEXT COLLATE "C" NOT NULL,
    auth_time moment NOT NULL,
    expires   moment NOT NULL,
    family    ident, -- NULL until used
    data      object NOT NULL
);
CREATE INDEX codes_client ON codes (client);

-- A row's lock is held to the end of its transaction, so that numbers become
-- visible in their order: a reader that has seen 7 has not missed 6. A sequence
-- would not do that.
CREATE TABLE counters (
    name  ident PRIMARY KEY,
    value BIGINT NOT NULL CHECK (value >= 0)
);
INSERT INTO counters VALUES ('revocations', 0);

CREATE TABLE revocations (
    seq        BIGINT PRIMARY KEY,
    kind       TEXT NOT NULL CHECK (kind IN ('sid', 'sub', 'client', 'jti', 'key', 'family', 'kid', 'tenant', 'svid')),
    id         ident NOT NULL,
    not_before moment NOT NULL,
    expires    BIGINT NOT NULL CHECK (expires > not_before),
    data       object NOT NULL
);

CREATE TABLE factors (
    id         ident PRIMARY KEY,
    subject    ident NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('totp', 'passkey', 'recovery')),
    credential bytes32 UNIQUE, -- NULL: no passkey
    secret     BYTEA NOT NULL, -- sealed under the KEK, or public
    version    BIGINT NOT NULL CHECK (version >= 0),
    created    moment NOT NULL,
    last_used  BIGINT NOT NULL CHECK (last_used >= 0),
    data       object NOT NULL,
    CHECK ((kind = 'passkey') = (credential IS NOT NULL))
);
CREATE INDEX factors_subject ON factors (subject);

CREATE TABLE tickets (
    kind    ident,
    hash    bytes32,
    value   BYTEA NOT NULL CHECK (octet_length(value) <= 16384),
    expires moment NOT NULL,
    PRIMARY KEY (kind, hash)
);
CREATE INDEX tickets_expires ON tickets (expires);

CREATE TABLE tries ( -- of guesses
    key     bytes32 PRIMARY KEY,
    count   BIGINT NOT NULL CHECK (count >= 0),
    since   BIGINT NOT NULL,
    until   BIGINT NOT NULL,
    updated BIGINT NOT NULL
);
CREATE INDEX tries_updated ON tries (updated);

CREATE TABLE join_tokens (
    hash     bytes32 PRIMARY KEY,
    identity ident NOT NULL,
    expires  moment NOT NULL,
    used     BIGINT -- NULL until used
);

CREATE TABLE sealed (
    name  ident PRIMARY KEY,
    value BYTEA NOT NULL CHECK (octet_length(value) >= 33)
);

CREATE TABLE deks (
    item    ident,
    tenant  TEXT COLLATE "C",
    version BIGINT CHECK (version BETWEEN 1 AND 4294967295),
    kek     ident NOT NULL,
    wrapped BYTEA NOT NULL CHECK (octet_length(wrapped) >= 48),
    created moment NOT NULL,
    PRIMARY KEY (item, tenant, version)
);

CREATE TABLE plane_heads (
    plane    ident PRIMARY KEY,
    instance TEXT NOT NULL,
    listen   TEXT NOT NULL,
    seq      BIGINT NOT NULL CHECK (seq >= 0),
    hash     bytes32 NOT NULL,
    seen     moment NOT NULL
);

CREATE TABLE secrets (
    path    ident,
    version BIGINT CHECK (version > 0),
    sealed  BYTEA NOT NULL CHECK (octet_length(sealed) > 32),
    created moment NOT NULL,
    PRIMARY KEY (path, version)
);
