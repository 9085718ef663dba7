package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tapseal/tapseal/internal/secret"
)

// A Change is what became, or would become, of a write.
type Change string

// Changes.
const (
	Unchanged Change = "unchanged"
	Created   Change = "created"
	Updated   Change = "updated"
)

// Applied is a write and what became of it.
type Applied struct {
	Kind   WriteKind `json:"kind"`
	Path   string    `json:"path"`
	Change Change    `json:"change"`
}

// Apply writes the plan with the administrator's rights, and nothing that is
// already so. With dry set it only compares. After an error the changes so far
// are given as well; applying again goes on from there.
func (p Plan) Apply(ctx context.Context, a *Admin, dry bool) ([]Applied, error) {
	var all []Applied
	for _, w := range p.Writes {
		change, err := a.compare(ctx, w)
		if err != nil {
			return all, fmt.Errorf("%s %s: looking at what is there: %w", w.Kind, w.Path, err)
		}
		if change != Unchanged && !dry {
			if err := a.put(ctx, w); err != nil {
				return all, fmt.Errorf("%s %s: writing: %w", w.Kind, w.Path, err)
			}
		}
		all = append(all, Applied{Kind: w.Kind, Path: w.Path, Change: change})
	}
	return all, nil
}

// errOther means that something else has the place.
var errOther = errors.New("something else is mounted there")

func (a *Admin) compare(ctx context.Context, w Write) (Change, error) {
	switch w.Kind {
	case WriteEngine:
		return a.compareMount(ctx, "sys/mounts", w)
	case WriteLogin:
		return a.compareMount(ctx, "sys/auth", w)
	case WritePolicy:
		return a.compareObject(ctx, "sys/policies/acl/"+w.Path, w)
	case WriteRole:
		return a.compareObject(ctx, w.Path, w)
	case WriteRoot:
		_, err := a.conn.list(ctx, w.Path+"/issuers")
		return absentOr(Unchanged, err)
	}
	return "", fmt.Errorf("no such kind of write: %q", w.Kind)
}

// absentOr gives change, or Created if there is nothing yet. An engine that is
// not mounted answers 404 as well; that is how a dry run of everything works.
func absentOr(change Change, err error) (Change, error) {
	if errors.Is(err, ErrNotFound) {
		return Created, nil
	}
	if err != nil {
		return "", err
	}
	return change, nil
}

func (a *Admin) compareMount(ctx context.Context, list string, w Write) (Change, error) {
	answer, err := a.conn.read(ctx, list)
	if err != nil {
		return "", err
	}
	mount, ok := answer.Data[w.Path+"/"].(map[string]any)
	if !ok {
		return Created, nil
	}
	if mount["type"] != w.Data["type"] {
		return "", fmt.Errorf("%w: %v", errOther, mount["type"])
	}
	if want, ok := w.Data["options"].(map[string]any); ok {
		have, _ := mount["options"].(map[string]any)
		if have["version"] != want["version"] {
			return "", fmt.Errorf("%w: version %v", errOther, have["version"])
		}
	}
	return Unchanged, nil
}

func (a *Admin) compareObject(ctx context.Context, path string, w Write) (Change, error) {
	answer, err := a.conn.read(ctx, path)
	if err != nil {
		return absentOr("", err)
	}
	have := answer.Data
	if details, ok := have["connection_details"].(map[string]any); ok { // of a database
		for k, v := range details {
			have[k] = v
		}
	}
	for k, want := range w.Data {
		if _, isSecret := want.(secret.Secret); isSecret {
			continue // never read back; write once, rotate in Vault
		}
		if canonical(have[k]) != canonical(want) {
			return Updated, nil
		}
	}
	return Unchanged, nil
}

// canonical makes what was written and what is read back comparable: numbers
// come back as json.Number, lists in any order, nothing as an empty list.
func canonical(v any) string {
	switch v := v.(type) {
	case nil:
		return "[]"
	case []string:
		return canonicalList(slices.Clone(v))
	case []any:
		list := make([]string, len(v))
		for i, e := range v {
			list[i] = canonical(e)
		}
		return canonicalList(list)
	case json.Number:
		return v.String()
	case string:
		return strings.TrimSpace(v)
	}
	return fmt.Sprint(v)
}

func canonicalList(l []string) string {
	slices.Sort(l)
	b, err := json.Marshal(l)
	if err != nil {
		return ""
	}
	return string(b)
}

// generateRoot makes a root whose key never leaves Vault.
const generateRoot = "root/generate/internal"

func (a *Admin) put(ctx context.Context, w Write) error {
	path := w.Path
	switch w.Kind {
	case WriteEngine:
		path = "sys/mounts/" + w.Path
	case WriteLogin:
		path = "sys/auth/" + w.Path
	case WritePolicy:
		path = "sys/policies/acl/" + w.Path
	case WriteRoot:
		path = w.Path + "/" + generateRoot
	case WriteRole:
	}
	_, err := a.conn.write(ctx, path, revealed(w.Data))
	return err
}

// revealed replaces secrets by what they hold, for the request only.
func revealed(data map[string]any) map[string]any {
	out := make(map[string]any, len(data))
	for k, v := range data {
		if s, ok := v.(secret.Secret); ok {
			s.Use(func(b []byte) { out[k] = string(b) })
			continue
		}
		out[k] = v
	}
	return out
}
