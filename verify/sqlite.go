package verify

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	_ "modernc.org/sqlite" // driver "sqlite"
)

// openDB opens a service's own database file, as somebody who got at the disk
// would: around the service and its sidecar.
func openDB(name string) (*sql.DB, error) {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: name}).EscapedPath(), RawQuery: url.Values{"_pragma": {"busy_timeout(5000)"}, "mode": {"rw"}}.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// databases lists the files of embedded stores.
func (t *target) databases() []string {
	files, err := filepath.Glob(filepath.Join(t.dir, "data", "*", "*.db"))
	if err != nil {
		return nil
	}
	return files
}

// cell is one number in a database.
type cell struct {
	file, table, column string
	key, id             string // the text column by which the row was found, and its value
	value               int64
}

// where is the cell's condition; names are quoted, values are bound.
func (c cell) where() string { return " WHERE " + quoted(c.key) + " = $1" }

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// findCell looks through every table of every embedded store for a row with
// this id and a whole number of this value.
func (t *target) findCell(ctx context.Context, id string, value int64) (cell, error) {
	for _, file := range t.databases() {
		c, ok, err := findIn(ctx, file, id, value)
		if err != nil {
			return c, fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
		if ok {
			return c, nil
		}
	}
	return cell{}, fmt.Errorf("no embedded store has a row with the id of what was booked")
}

func findIn(ctx context.Context, file, id string, value int64) (cell, bool, error) {
	db, err := openDB(file)
	if err != nil {
		return cell{}, false, err
	}
	defer db.Close()
	tables, err := texts(ctx, db, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`)
	if err != nil {
		return cell{}, false, err
	}
	for _, table := range tables {
		columns, err := texts(ctx, db, `SELECT name FROM pragma_table_info($1)`, table)
		if err != nil {
			return cell{}, false, err
		}
		c := cell{file: file, table: table, id: id, value: value}
		if c.locate(ctx, db, columns) {
			return c, true, nil
		}
	}
	return cell{}, false, nil
}

// locate finds the id's column, which must be unique in the table, and the
// value's.
func (c *cell) locate(ctx context.Context, db *sql.DB, columns []string) bool {
	for _, key := range columns {
		if key != "id" && key != "ID" {
			continue
		}
		for _, column := range columns {
			var got string
			err := db.QueryRowContext(ctx, `SELECT CAST(`+quoted(column)+` AS TEXT) FROM `+quoted(c.table)+` WHERE `+quoted(key)+` = $1 AND typeof(`+quoted(column)+`) = 'integer'`, c.id).Scan(&got)
			if err == nil && got == strconv.FormatInt(c.value, 10) {
				c.key, c.column = key, column
				return true
			}
		}
	}
	return false
}

func texts(ctx context.Context, db *sql.DB, query string, args ...any) ([]string, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// put writes a value into the cell.
func (c cell) put(ctx context.Context, value int64) error {
	db, err := openDB(c.file)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, `UPDATE `+quoted(c.table)+` SET `+quoted(c.column)+` = $2`+c.where(), c.id, value)
	return err
}

// try runs a statement and takes it back, whatever it does.
func try(ctx context.Context, file, statement string, args ...any) (changed int64, err error) {
	db, err := openDB(file)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(ctx, 6*time.Second)
	defer cancel()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	res, err := tx.ExecContext(ctx, statement, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
