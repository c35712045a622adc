-- +goose Up

-- Certificates that are out. A row is written before its certificate is
-- delivered, and goes a day after its end.
CREATE TABLE issued (
    issuer    ident NOT NULL, -- key id, hex
    serial    ident NOT NULL, -- hex
    root      ident NOT NULL, -- key id, hex
    id        ident NOT NULL,
    kind      TEXT NOT NULL CHECK (kind IN ('join', 'renew', 'kubernetes', 'unix', 'edge', 'database', 'written', 'own')),
    not_after moment NOT NULL,
    PRIMARY KEY (issuer, serial)
);
CREATE INDEX issued_live ON issued (not_after);

-- Which trust bundle each process of a plane goes by.
CREATE TABLE acknowledged (
    plane    ident NOT NULL,
    instance ident NOT NULL,
    version  BIGINT NOT NULL CHECK (version >= 0),
    root     TEXT NOT NULL, -- '' if it did not say
    ends     BIGINT NOT NULL CHECK (ends >= 0),
    seen     moment NOT NULL,
    PRIMARY KEY (plane, instance)
);

-- Two kinds of revocation more: of one certificate, and of all by one authority.
ALTER TABLE revocations DROP CONSTRAINT revocations_kind_check;
ALTER TABLE revocations ADD CONSTRAINT revocations_kind_check
    CHECK (kind IN ('sid', 'sub', 'client', 'jti', 'key', 'family', 'kid', 'tenant', 'svid', 'serial', 'issuer'));
