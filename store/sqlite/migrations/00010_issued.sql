-- +goose Up

-- When a certificate was issued, by its dates: a cut-off of its holder voids what
-- is older. 0 for those from before there was this.
ALTER TABLE issued ADD COLUMN issued INTEGER NOT NULL DEFAULT 0 CHECK (issued >= 0);
