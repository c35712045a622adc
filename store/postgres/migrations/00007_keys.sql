-- +goose Up

-- What may have been sealed with a key.
ALTER TABLE deks ADD COLUMN messages BIGINT NOT NULL DEFAULT 0 CHECK (messages >= 0);

-- What is known of the keys of a tenant, or of a person whose keys were
-- destroyed. It outlives them.
CREATE TABLE key_sets (
    item     ident,
    tenant   TEXT COLLATE "C",
    who      TEXT COLLATE "C", -- '': the tenant
    last     BIGINT NOT NULL CHECK (last BETWEEN 0 AND 4294967295),
    shredded BIGINT NOT NULL CHECK (shredded >= 0),
    closed   BOOLEAN NOT NULL,
    PRIMARY KEY (item, tenant, who)
);
INSERT INTO key_sets SELECT item, tenant, '', max(version), 0, false FROM deks GROUP BY item, tenant;

CREATE TABLE subkeys ( -- wrapped under a row of deks
    item    ident,
    tenant  TEXT COLLATE "C",
    who     TEXT COLLATE "C", -- '': blind indexes; else a keyed hash of the person
    version BIGINT CHECK (version BETWEEN 1 AND 2147483647),
    dek     BIGINT NOT NULL CHECK (dek BETWEEN 1 AND 4294967295),
    wrapped BYTEA NOT NULL CHECK (octet_length(wrapped) >= 48),
    created moment NOT NULL,
    PRIMARY KEY (item, tenant, who, version)
);

CREATE TABLE notices ( -- to caches, of what is newer or gone
    id   BIGINT PRIMARY KEY,
    body object NOT NULL,
    made moment NOT NULL
);
INSERT INTO counters VALUES ('notices', 0);

-- The newest notice that a plane carried out.
ALTER TABLE plane_heads ADD COLUMN forgot BIGINT NOT NULL DEFAULT 0 CHECK (forgot >= 0);
