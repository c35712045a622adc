-- +goose Up

-- An account is changed from the version that was read.
ALTER TABLE users ADD COLUMN version BIGINT NOT NULL DEFAULT 1 CHECK (version > 0);

-- Factors and links of accounts that are gone.
DELETE FROM factors WHERE subject NOT IN (SELECT 'user:' || name FROM users);
DELETE FROM links WHERE subject NOT IN (SELECT 'user:' || name FROM users);

-- From where accounts have logged in: nothing asks.
DROP TABLE logins;
