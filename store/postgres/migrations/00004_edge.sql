-- +goose Up

-- What all gateways share: certificates of a public authority, their keys, the
-- account. Values are sealed under the KEK.
CREATE TABLE edge_store (
    key      TEXT COLLATE "C" PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 400),
    value    BYTEA NOT NULL,
    modified BIGINT NOT NULL CHECK (modified > 0)
);

-- Who of them is at work. A row outlives its holder, for its fence.
CREATE TABLE edge_locks (
    key   TEXT COLLATE "C" PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 400),
    owner TEXT NOT NULL CHECK (owner <> ''),
    fence BIGINT NOT NULL CHECK (fence > 0),
    until BIGINT NOT NULL CHECK (until >= 0) -- 0: given back
);
