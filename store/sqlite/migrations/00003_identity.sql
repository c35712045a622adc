-- +goose Up

-- What has no column of its own is in data, so that a new fact about a session,
-- client, code, family, key or factor needs no new schema.

ALTER TABLE sessions RENAME TO sessions_old;
CREATE TABLE sessions (
    key              BLOB PRIMARY KEY CHECK (length(key) = 32),
    sid              TEXT NOT NULL UNIQUE CHECK (sid <> ''),
    subject          TEXT NOT NULL CHECK (subject <> ''),
    created          INTEGER NOT NULL CHECK (created > 0),
    last_seen        INTEGER NOT NULL CHECK (last_seen > 0),
    expires          INTEGER NOT NULL CHECK (expires > 0),
    upstream_issuer  TEXT, -- NULL: a local login
    upstream_subject TEXT,
    upstream_sid     TEXT,
    data             TEXT NOT NULL CHECK (json_type(data) = 'object')
) STRICT, WITHOUT ROWID;
INSERT INTO sessions (key, sid, subject, created, last_seen, expires, data)
    SELECT key, sid, subject, created, last_seen, expires, json_object(
        'IP', ip, 'Agent', agent, 'ACR', 'aal1', 'AMR', json_array('pwd'), -- there was nothing but passwords
        'AuthTime', strftime('%Y-%m-%dT%H:%M:%S', created / 1000000000, 'unixepoch') || printf('.%09dZ', created % 1000000000))
    FROM sessions_old;
DROP TABLE sessions_old;
CREATE INDEX sessions_subject ON sessions (subject, created);
CREATE INDEX sessions_seen ON sessions (last_seen);
CREATE INDEX sessions_expires ON sessions (expires);
CREATE INDEX sessions_upstream ON sessions (upstream_issuer, upstream_subject) WHERE upstream_issuer IS NOT NULL;
CREATE INDEX sessions_upstream_sid ON sessions (upstream_issuer, upstream_sid) WHERE upstream_sid IS NOT NULL;

ALTER TABLE logins RENAME TO logins_old;
ALTER TABLE users RENAME TO users_old;
CREATE TABLE users (
    name    TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
    hash    TEXT NOT NULL CHECK (hash = '' OR hash LIKE '$argon2id$%' OR hash LIKE '$2_$%' OR hash LIKE '$scrypt$%' OR hash LIKE '$pbkdf2-sha%$%'), -- '': no password
    facts   TEXT NOT NULL CHECK (json_type(facts) = 'object'),
    changed INTEGER NOT NULL CHECK (changed > 0),
    data    TEXT NOT NULL CHECK (json_type(data) = 'object')
) STRICT, WITHOUT ROWID;
INSERT INTO users SELECT name, hash, facts, changed, json_object('Tag', tag) FROM users_old;
CREATE TABLE logins ( -- from where accounts have logged in
    name    TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    address TEXT NOT NULL CHECK (length(address) <= 64),
    seen    INTEGER NOT NULL CHECK (seen > 0),
    PRIMARY KEY (name, address)
) STRICT, WITHOUT ROWID;
INSERT INTO logins SELECT name, address, seen FROM logins_old;
DROP TABLE logins_old;
DROP TABLE users_old;

ALTER TABLE clients RENAME TO clients_old;
CREATE TABLE clients (
    id        TEXT PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 64),
    principal TEXT NOT NULL CHECK (principal <> ''),
    data      TEXT NOT NULL CHECK (json_type(data) = 'object')
) STRICT, WITHOUT ROWID;
INSERT INTO clients SELECT id, principal, json_object('Redirects', json(redirects), 'Tag', tag) FROM clients_old;

ALTER TABLE api_keys RENAME TO api_keys_old;
CREATE TABLE api_keys (
    id        TEXT PRIMARY KEY CHECK (id <> ''),
    hash      BLOB NOT NULL CHECK (length(hash) = 32),
    client    TEXT NOT NULL REFERENCES clients (id) ON DELETE CASCADE,
    disabled  INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    created   INTEGER NOT NULL CHECK (created > 0),
    last_used INTEGER NOT NULL CHECK (last_used >= 0), -- 0: never
    data      TEXT NOT NULL CHECK (json_type(data) = 'object')
) STRICT, WITHOUT ROWID;
INSERT INTO api_keys SELECT id, hash, client, disabled, created, 0, '{}' FROM api_keys_old;
DROP TABLE api_keys_old;
CREATE INDEX api_keys_client ON api_keys (client);

ALTER TABLE refresh_tokens RENAME TO refresh_tokens_old;
CREATE TABLE refresh_tokens ( -- families: the tokens are derived, not stored
    family     TEXT PRIMARY KEY CHECK (family <> ''),
    generation INTEGER NOT NULL CHECK (generation >= 0),
    rotated    INTEGER NOT NULL CHECK (rotated > 0),
    client     TEXT NOT NULL REFERENCES clients (id) ON DELETE CASCADE,
    subject    TEXT NOT NULL CHECK (subject <> ''),
    sid        TEXT NOT NULL,
    auth_time  INTEGER NOT NULL CHECK (auth_time > 0),
    expires    INTEGER NOT NULL CHECK (expires <= absolute),
    absolute   INTEGER NOT NULL CHECK (absolute > 0),
    revoked    INTEGER NOT NULL CHECK (revoked IN (0, 1)),
    data       TEXT NOT NULL CHECK (json_type(data) = 'object')
) STRICT, WITHOUT ROWID;
INSERT INTO refresh_tokens SELECT family, generation, rotated, client, subject, sid, auth_time, expires, absolute, revoked, json_object('ACR', 'aal1', 'AMR', json_array('pwd'))
    FROM refresh_tokens_old;
DROP TABLE refresh_tokens_old;
CREATE INDEX refresh_tokens_subject ON refresh_tokens (subject);
CREATE INDEX refresh_tokens_sid ON refresh_tokens (sid);
CREATE INDEX refresh_tokens_client ON refresh_tokens (client);

ALTER TABLE codes RENAME TO codes_old;
CREATE TABLE codes (
    hash      BLOB PRIMARY KEY CHECK (length(hash) = 32),
    client    TEXT NOT NULL REFERENCES clients (id) ON DELETE CASCADE,
    redirect  TEXT NOT NULL CHECK (redirect <> ''),
    challenge TEXT NOT NULL CHECK (length(challenge) = 43),
    subject   TEXT NOT NULL CHECK (subject <> ''),
    sid       TEXT NOT NULL,
    auth_time INTEGER NOT NULL CHECK (auth_time > 0),
    expires   INTEGER NOT NULL CHECK (expires > 0),
    family    TEXT, -- NULL until used
    data      TEXT NOT NULL CHECK (json_type(data) = 'object')
) STRICT, WITHOUT ROWID;
INSERT INTO codes SELECT hash, client, redirect, challenge, subject, sid, auth_time, expires, family, json_object('ACR', 'aal1', 'AMR', json_array('pwd')) FROM codes_old;
DROP TABLE codes_old;
CREATE INDEX codes_client ON codes (client);
DROP TABLE clients_old;

-- A row's lock is held to the end of its transaction, so that numbers become
-- visible in their order: a reader that has seen 7 has not missed 6.
CREATE TABLE counters (
    name  TEXT PRIMARY KEY CHECK (name <> ''),
    value INTEGER NOT NULL CHECK (value >= 0)
) STRICT, WITHOUT ROWID;
INSERT INTO counters VALUES ('revocations', coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'revocations'), 0));

ALTER TABLE revocations RENAME TO revocations_old;
CREATE TABLE revocations (
    seq        INTEGER PRIMARY KEY,
    kind       TEXT NOT NULL CHECK (kind IN ('sid', 'sub', 'client', 'jti', 'key', 'family', 'kid', 'tenant', 'svid')),
    id         TEXT NOT NULL CHECK (id <> ''),
    not_before INTEGER NOT NULL CHECK (not_before > 0),
    expires    INTEGER NOT NULL CHECK (expires > not_before),
    data       TEXT NOT NULL CHECK (json_type(data) = 'object')
) STRICT;
INSERT INTO revocations SELECT seq, kind, id, not_before, expires, '{}' FROM revocations_old;
DROP TABLE revocations_old;

CREATE TABLE factors (
    id         TEXT PRIMARY KEY CHECK (id <> ''),
    subject    TEXT NOT NULL CHECK (subject <> ''),
    kind       TEXT NOT NULL CHECK (kind IN ('totp', 'passkey', 'recovery')),
    credential BLOB UNIQUE CHECK (length(credential) = 32), -- NULL: no passkey
    secret     BLOB NOT NULL, -- sealed under the KEK, or public
    version    INTEGER NOT NULL CHECK (version >= 0),
    created    INTEGER NOT NULL CHECK (created > 0),
    last_used  INTEGER NOT NULL CHECK (last_used >= 0), -- 0: never
    data       TEXT NOT NULL CHECK (json_type(data) = 'object'),
    CHECK ((kind = 'passkey') = (credential IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX factors_subject ON factors (subject);

CREATE TABLE tickets (
    kind    TEXT NOT NULL CHECK (kind <> ''),
    hash    BLOB NOT NULL CHECK (length(hash) = 32),
    value   BLOB NOT NULL CHECK (length(value) <= 16384),
    expires INTEGER NOT NULL CHECK (expires > 0),
    PRIMARY KEY (kind, hash)
) STRICT, WITHOUT ROWID;
CREATE INDEX tickets_expires ON tickets (expires);

CREATE TABLE tries ( -- of guesses
    key     BLOB PRIMARY KEY CHECK (length(key) = 32),
    count   INTEGER NOT NULL CHECK (count >= 0),
    since   INTEGER NOT NULL,
    until   INTEGER NOT NULL,
    updated INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tries_updated ON tries (updated);

CREATE TABLE links ( -- of accounts at identity providers
    issuer     TEXT NOT NULL CHECK (issuer <> ''),
    upstream   TEXT NOT NULL CHECK (upstream <> ''),
    subject    TEXT NOT NULL CHECK (subject <> ''),
    created    INTEGER NOT NULL CHECK (created > 0),
    last_login INTEGER NOT NULL CHECK (last_login >= 0), -- 0: never
    PRIMARY KEY (issuer, upstream)
) STRICT, WITHOUT ROWID;
CREATE INDEX links_subject ON links (subject);
