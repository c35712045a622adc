-- +goose Up

CREATE TABLE rotations ( -- credentials that take turns
    name ident PRIMARY KEY,
    rev  BIGINT NOT NULL CHECK (rev > 0),
    data object NOT NULL
);

CREATE TABLE rotation_uses ( -- what planes say of the versions in use
    name    ident,
    plane   TEXT COLLATE "C" CHECK (length(plane) <= 128),
    version BIGINT NOT NULL CHECK (version >= 0),
    seen    moment NOT NULL,
    PRIMARY KEY (name, plane)
);
