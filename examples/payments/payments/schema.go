package main

import (
	"strings"

	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/db"
)

// schema returns the ledger in both dialects. The CHECKs are the last line of
// defence: what the API and the service let through by mistake stops here. A
// throw-away system may leave some of them out, to prove that they are needed.
func schema(svc *sdk.Service, auditLog bool) []db.Step {
	check := func(control, expr string) string {
		if svc.Off(control) {
			return ""
		}
		return "CHECK (" + expr + ")"
	}
	build := func(blob, sealed, triggers string) string {
		if !auditLog {
			triggers = ""
		}
		fill := strings.NewReplacer(
			"{blob}", blob,
			"{amount}", check("db.check", "amount > 0"),
			"{currency}", check("db.check", "currency = 'EUR'"),
			"{status}", check("db.check", "status IN ('pending', 'completed', 'failed')"),
			"{email}", check("data.envelope", strings.ReplaceAll(sealed, "?", "email")),
			"{card_ref}", check("data.envelope", strings.ReplaceAll(sealed, "?", "card_ref")),
		)
		return fill.Replace(tables) + triggers
	}
	return []db.Step{{
		// A sealed field is 33 bytes longer than its text and begins with the format, 1.
		SQLite:   build("BLOB", "typeof(?) = 'blob' AND length(?) >= 33 AND substr(?, 1, 1) = x'01'", appendOnlySQLite),
		Postgres: build("BYTEA", "octet_length(?) >= 33 AND get_byte(?, 0) = 1", appendOnlyPostgres),
	}, {
		SQLite:   `ALTER TABLE payments ADD COLUMN frozen INTEGER NOT NULL DEFAULT 0 CHECK (frozen IN (0, 1))`,
		Postgres: `ALTER TABLE payments ADD COLUMN frozen BOOLEAN NOT NULL DEFAULT false`,
	}, {
		SQLite:   strings.ReplaceAll(addIndex, "{blob}", "BLOB"),
		Postgres: strings.ReplaceAll(addIndex, "{blob}", "BYTEA"),
	}}
}

const tables = `
CREATE TABLE payments (
	id          TEXT   PRIMARY KEY,
	order_id    TEXT   NOT NULL,
	tenant      TEXT   NOT NULL,
	owner       TEXT   NOT NULL,
	team        TEXT   NOT NULL,
	amount      BIGINT NOT NULL {amount},
	currency    TEXT   NOT NULL {currency},
	status      TEXT   NOT NULL {status},
	email       {blob} NOT NULL {email},
	card_ref    {blob} NOT NULL {card_ref},
	description TEXT   NOT NULL,
	idem_key    TEXT,
	created     BIGINT NOT NULL,
	mac         {blob} NOT NULL,
	UNIQUE (owner, idem_key)
);
CREATE INDEX payments_of ON payments (owner, created);
CREATE TABLE payment_audit (
	seq        BIGINT PRIMARY KEY,
	payment_id TEXT   NOT NULL,
	status     TEXT   NOT NULL,
	amount     BIGINT NOT NULL,
	at         BIGINT NOT NULL,
	checksum   {blob} NOT NULL
);
CREATE TABLE outbox (
	payment_id TEXT   PRIMARY KEY REFERENCES payments (id),
	signed     {blob} NOT NULL,
	created    BIGINT NOT NULL
);`

// Support finds rows by the blind index of the address: the database compares
// what it cannot read.
const addIndex = `
ALTER TABLE payments ADD COLUMN email_idx {blob};
CREATE INDEX payments_reached ON payments (tenant, email_idx);`

// The third trigger is for INSERT OR REPLACE, which deletes without asking the
// second.
const appendOnlySQLite = `
CREATE TRIGGER payment_audit_update BEFORE UPDATE ON payment_audit
	BEGIN SELECT RAISE(ABORT, 'payment_audit is append-only'); END;
CREATE TRIGGER payment_audit_delete BEFORE DELETE ON payment_audit
	BEGIN SELECT RAISE(ABORT, 'payment_audit is append-only'); END;
CREATE TRIGGER payment_audit_replace BEFORE INSERT ON payment_audit
	WHEN EXISTS (SELECT 1 FROM payment_audit WHERE seq = NEW.seq)
	BEGIN SELECT RAISE(ABORT, 'payment_audit is append-only'); END;`

const appendOnlyPostgres = `
CREATE FUNCTION payment_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'payment_audit is append-only'; END $$;
CREATE TRIGGER payment_audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON payment_audit
	FOR EACH STATEMENT EXECUTE FUNCTION payment_audit_refuse();`
