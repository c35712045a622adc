-- +goose Up

-- What may have been sealed with a key.
ALTER TABLE deks ADD COLUMN messages INTEGER NOT NULL DEFAULT 0 CHECK (messages >= 0);

-- What is known of the keys of a tenant, or of a person whose keys were
-- destroyed. It outlives them.
CREATE TABLE key_sets (
    item     TEXT NOT NULL CHECK (item <> ''),
    tenant   TEXT NOT NULL,
    who      TEXT NOT NULL, -- '': the tenant
    last     INTEGER NOT NULL CHECK (last BETWEEN 0 AND 4294967295),
    shredded INTEGER NOT NULL CHECK (shredded >= 0),
    closed   INTEGER NOT NULL CHECK (closed IN (0, 1)),
    PRIMARY KEY (item, tenant, who)
) STRICT, WITHOUT ROWID;
INSERT INTO key_sets SELECT item, tenant, '', max(version), 0, 0 FROM deks GROUP BY item, tenant;

CREATE TABLE subkeys ( -- wrapped under a row of deks
    item    TEXT NOT NULL CHECK (item <> ''),
    tenant  TEXT NOT NULL,
    who     TEXT NOT NULL, -- '': blind indexes; else a keyed hash of the person
    version INTEGER NOT NULL CHECK (version BETWEEN 1 AND 2147483647),
    dek     INTEGER NOT NULL CHECK (dek BETWEEN 1 AND 4294967295),
    wrapped BLOB NOT NULL CHECK (length(wrapped) >= 48),
    created INTEGER NOT NULL CHECK (created > 0),
    PRIMARY KEY (item, tenant, who, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE notices ( -- to caches, of what is newer or gone
    id   INTEGER PRIMARY KEY,
    body TEXT NOT NULL CHECK (json_type(body) = 'object'),
    made INTEGER NOT NULL CHECK (made > 0)
) STRICT;
INSERT INTO counters VALUES ('notices', 0);

-- The newest notice that a plane carried out.
ALTER TABLE plane_heads ADD COLUMN forgot INTEGER NOT NULL DEFAULT 0 CHECK (forgot >= 0);
