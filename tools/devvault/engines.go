package main

import (
	"github.com/openbao/openbao/builtin/credential/approle"
	"github.com/openbao/openbao/builtin/credential/cert"
	"github.com/openbao/openbao/builtin/logical/database"
	"github.com/openbao/openbao/builtin/logical/kv"
	"github.com/openbao/openbao/builtin/logical/pki"
	"github.com/openbao/openbao/builtin/logical/transit"
	"github.com/openbao/openbao/plugins/database/postgresql"
	"github.com/openbao/openbao/sdk/v2/helper/consts"
	"github.com/openbao/openbao/sdk/v2/logical"
)

var (
	logins  = map[string]logical.Factory{"approle": approle.Factory, "cert": cert.Factory}
	engines = map[string]logical.Factory{
		"kv": kv.Factory, "pki": pki.Factory, "database": database.Factory, "transit": transit.Factory,
	}
)

const postgres = "postgresql-database-plugin"

// A registry answers the core's questions about built-in plugins.
type registry struct{}

func (registry) find(name string, t consts.PluginType) (func() (any, error), bool) {
	factories := logins
	switch t {
	case consts.PluginTypeDatabase:
		return postgresql.New, name == postgres
	case consts.PluginTypeSecrets:
		factories = engines
	}
	f, ok := factories[name]
	return func() (any, error) { return f, nil }, ok
}

// Contains, Get, Keys and DeprecationStatus are what the core asks.
func (r registry) Contains(name string, t consts.PluginType) bool {
	_, ok := r.find(name, t)
	return ok
}

func (r registry) Get(name string, t consts.PluginType) (func() (any, error), bool) {
	return r.find(name, t)
}

func (r registry) Keys(t consts.PluginType) (names []string) {
	for _, n := range []string{"approle", "cert", "kv", "pki", "database", "transit", postgres} {
		if r.Contains(n, t) {
			names = append(names, n)
		}
	}
	return names
}

func (r registry) DeprecationStatus(name string, t consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, t)
}
