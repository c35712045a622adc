-- +goose Up

-- Certificates that are out. A row is written before its certificate is
-- delivered, and goes a day after its end.
CREATE TABLE issued (
    issuer    TEXT NOT NULL CHECK (issuer <> ''), -- key id, hex
    serial    TEXT NOT NULL CHECK (serial <> ''), -- hex
    root      TEXT NOT NULL CHECK (root <> ''),   -- key id, hex
    id        TEXT NOT NULL CHECK (id <> ''),
    kind      TEXT NOT NULL CHECK (kind IN ('join', 'renew', 'kubernetes', 'unix', 'edge', 'database', 'written', 'own')),
    not_after INTEGER NOT NULL CHECK (not_after > 0),
    PRIMARY KEY (issuer, serial)
) STRICT, WITHOUT ROWID;
CREATE INDEX issued_live ON issued (not_after);

-- Which trust bundle each process of a plane goes by.
CREATE TABLE acknowledged (
    plane    TEXT NOT NULL CHECK (plane <> ''),
    instance TEXT NOT NULL CHECK (instance <> ''),
    version  INTEGER NOT NULL CHECK (version >= 0),
    root     TEXT NOT NULL, -- '' if it did not say
    ends     INTEGER NOT NULL CHECK (ends >= 0),
    seen     INTEGER NOT NULL CHECK (seen > 0),
    PRIMARY KEY (plane, instance)
) STRICT, WITHOUT ROWID;

-- Two kinds of revocation more: of one certificate, and of all by one authority.
ALTER TABLE revocations RENAME TO revocations_old;
CREATE TABLE revocations (
    seq        INTEGER PRIMARY KEY,
    kind       TEXT NOT NULL CHECK (kind IN ('sid', 'sub', 'client', 'jti', 'key', 'family', 'kid', 'tenant', 'svid', 'serial', 'issuer')),
    id         TEXT NOT NULL CHECK (id <> ''),
    not_before INTEGER NOT NULL CHECK (not_before > 0),
    expires    INTEGER NOT NULL CHECK (expires > not_before),
    data       TEXT NOT NULL CHECK (json_type(data) = 'object')
) STRICT;
INSERT INTO revocations SELECT * FROM revocations_old;
DROP TABLE revocations_old;
