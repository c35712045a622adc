-- +goose Up

-- Times are nanoseconds since 1970 in UTC.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY CHECK (key <> ''),
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
    name    TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
    hash    TEXT NOT NULL CHECK (hash LIKE '$argon2id$%'),
    facts   TEXT NOT NULL CHECK (json_type(facts) = 'object'),
    tag     TEXT NOT NULL,
    changed INTEGER NOT NULL CHECK (changed > 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    key       BLOB PRIMARY KEY CHECK (length(key) = 32),
    sid       TEXT NOT NULL UNIQUE CHECK (sid <> ''),
    subject   TEXT NOT NULL CHECK (subject <> ''),
    created   INTEGER NOT NULL CHECK (created > 0),
    last_seen INTEGER NOT NULL CHECK (last_seen > 0),
    expires   INTEGER NOT NULL CHECK (expires > 0),
    ip        TEXT NOT NULL CHECK (length(ip) <= 45),
    agent     TEXT NOT NULL CHECK (length(agent) <= 256)
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_subject ON sessions (subject);

CREATE TABLE clients (
    id        TEXT PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 64),
    principal TEXT NOT NULL CHECK (principal <> ''),
    redirects TEXT NOT NULL CHECK (json_type(redirects) = 'array'),
    tag       TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    id       TEXT PRIMARY KEY CHECK (id <> ''),
    hash     BLOB NOT NULL CHECK (length(hash) = 32),
    client   TEXT NOT NULL REFERENCES clients (id),
    disabled INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
    created  INTEGER NOT NULL CHECK (created > 0)
) STRICT, WITHOUT ROWID;
CREATE INDEX api_keys_client ON api_keys (client);

CREATE TABLE refresh_tokens ( -- families: the tokens are derived, not stored
    family     TEXT PRIMARY KEY CHECK (family <> ''),
    generation INTEGER NOT NULL CHECK (generation >= 0),
    rotated    INTEGER NOT NULL CHECK (rotated > 0),
    client     TEXT NOT NULL REFERENCES clients (id),
    subject    TEXT NOT NULL CHECK (subject <> ''),
    sid        TEXT NOT NULL,
    auth_time  INTEGER NOT NULL CHECK (auth_time > 0),
    expires    INTEGER NOT NULL CHECK (expires <= absolute),
    absolute   INTEGER NOT NULL CHECK (absolute > 0),
    revoked    INTEGER NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1))
) STRICT, WITHOUT ROWID;
CREATE INDEX refresh_tokens_subject ON refresh_tokens (subject);
CREATE INDEX refresh_tokens_sid ON refresh_tokens (sid);

CREATE TABLE codes (
    hash      BLOB PRIMARY KEY CHECK (length(hash) = 32),
    client    TEXT NOT NULL REFERENCES clients (id),
    redirect  TEXT NOT NULL CHECK (redirect <> ''),
    challenge TEXT NOT NULL CHECK (length(challenge) = 43),
    subject   TEXT NOT NULL CHECK (subject <> ''),
    sid       TEXT NOT NULL,
    auth_time INTEGER NOT NULL CHECK (auth_time > 0),
    expires   INTEGER NOT NULL CHECK (expires > 0),
    family    TEXT -- NULL until used
) STRICT, WITHOUT ROWID;

CREATE TABLE revocations (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT NOT NULL CHECK (kind IN ('sid', 'sub', 'client', 'jti', 'key')),
    id         TEXT NOT NULL CHECK (id <> ''),
    not_before INTEGER NOT NULL CHECK (not_before > 0),
    expires    INTEGER NOT NULL CHECK (expires > not_before)
) STRICT;

CREATE TABLE join_tokens (
    hash     BLOB PRIMARY KEY CHECK (length(hash) = 32),
    identity TEXT NOT NULL CHECK (identity <> ''),
    expires  INTEGER NOT NULL CHECK (expires > 0),
    used     INTEGER -- NULL until used
) STRICT, WITHOUT ROWID;

CREATE TABLE sealed (
    name  TEXT PRIMARY KEY CHECK (name <> ''),
    value BLOB NOT NULL CHECK (length(value) >= 33)
) STRICT, WITHOUT ROWID;

CREATE TABLE deks (
    item    TEXT NOT NULL CHECK (item <> ''),
    tenant  TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version BETWEEN 1 AND 4294967295),
    kek     TEXT NOT NULL CHECK (kek <> ''),
    wrapped BLOB NOT NULL CHECK (length(wrapped) >= 48),
    created INTEGER NOT NULL CHECK (created > 0),
    PRIMARY KEY (item, tenant, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE plane_heads (
    plane    TEXT PRIMARY KEY CHECK (plane <> ''),
    instance TEXT NOT NULL,
    listen   TEXT NOT NULL,
    seq      INTEGER NOT NULL CHECK (seq >= 0),
    hash     BLOB NOT NULL CHECK (length(hash) = 32),
    seen     INTEGER NOT NULL CHECK (seen > 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE secrets (
    path    TEXT NOT NULL CHECK (path <> ''),
    version INTEGER NOT NULL CHECK (version > 0),
    sealed  BLOB NOT NULL CHECK (length(sealed) > 32),
    created INTEGER NOT NULL CHECK (created > 0),
    PRIMARY KEY (path, version)
) STRICT, WITHOUT ROWID;
