-- +goose Up

CREATE TABLE rotations ( -- credentials that take turns
    name TEXT PRIMARY KEY CHECK (name <> ''),
    rev  INTEGER NOT NULL CHECK (rev > 0),
    data TEXT NOT NULL CHECK (json_type(data) = 'object')
) STRICT;

CREATE TABLE rotation_uses ( -- what planes say of the versions in use
    name    TEXT NOT NULL,
    plane   TEXT NOT NULL CHECK (length(plane) <= 128),
    version INTEGER NOT NULL CHECK (version >= 0),
    seen    INTEGER NOT NULL CHECK (seen > 0),
    PRIMARY KEY (name, plane)
) STRICT, WITHOUT ROWID;
