-- +goose Up

CREATE TABLE logins ( -- from where accounts have logged in
    name    TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    address TEXT NOT NULL CHECK (length(address) <= 64),
    seen    INTEGER NOT NULL CHECK (seen > 0),
    PRIMARY KEY (name, address)
) STRICT, WITHOUT ROWID;
