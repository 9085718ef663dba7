package postgres

import (
	"fmt"
	"strings"
)

// A shape is what there is in a plan; each shape has a statement of its own.
type shape struct{ changes, inserts, adds bool }

func (c *conn) commitSQL(s shape) string {
	if c.shapes[s] == "" {
		c.shapes[s] = commitSQL(s)
	}
	return c.shapes[s]
}

// commitSQL is the statement that writes a batch, with the parameters of
// plan.arguments. Its one row says whether the guard held, and the keys of the
// records that were written.
//
// The condition of the counters is "IS TRUE" so that it stays a subquery, which
// is hashed once; a join would be a nested loop.
func commitSQL(has shape) string {
	var s strings.Builder
	s.WriteString(`WITH guard AS (
	UPDATE tapseal_instance SET sequence = $3
	WHERE instance = $1 AND sequence = $2 AND holder = $4 AND epoch = $5
	RETURNING sequence
)`)
	var written []string
	next := 6
	if has.changes {
		fmt.Fprintf(&s, `, changed AS (
	UPDATE tapseal_record r SET version = r.version + 1, record = i.next
	FROM (
		SELECT u.key, u.version, u.next FROM guard, unnest($%d::uuid[], $%d::int8[], $%d::bytea[]) AS u(key, version, next)
		ORDER BY u.key
	) AS i
	WHERE r.key = i.key AND r.version = i.version
	RETURNING r.key
)`, next, next+1, next+2)
		written = append(written, "SELECT key FROM changed")
		next += 3
	}
	if has.inserts {
		fmt.Fprintf(&s, `, made AS (
	INSERT INTO tapseal_record (key, version, record)
	SELECT u.key, 1, u.next FROM guard, unnest($%d::uuid[], $%d::bytea[]) AS u(key, next)
	ORDER BY u.key
	ON CONFLICT (key) DO NOTHING
	RETURNING key
)`, next, next+1)
		written = append([]string{"SELECT key FROM made"}, written...) // what is read first runs first
		next += 2
	}
	keys := "NULL::uuid[]"
	if len(written) > 0 {
		fmt.Fprintf(&s, ", written AS (%s)", strings.Join(written, " UNION ALL "))
		keys = "(SELECT array_agg(key) FROM written)"
	}
	if has.adds && len(written) > 0 {
		fmt.Fprintf(&s, `, counted AS (
	INSERT INTO tapseal_counter AS c (key, n, expires)
	SELECT a.key, sum(a.n)::int8, max(a.expires)
	FROM unnest($%d::uuid[], $%d::uuid[], $%d::int8[], $%d::int8[]) AS a(record, key, n, expires)
	WHERE (a.record IN (SELECT key FROM written)) IS TRUE
	GROUP BY a.key ORDER BY a.key
	ON CONFLICT (key) DO UPDATE SET n = c.n + excluded.n, expires = greatest(c.expires, excluded.expires)
	RETURNING 1
)`, next, next+1, next+2, next+3)
	}
	fmt.Fprintf(&s, "\nSELECT (SELECT count(*) FROM guard), %s", keys)
	return s.String()
}
