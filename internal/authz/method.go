package authz

import (
	"fmt"
	"strings"
)

// A MethodID names a method in checks. The zero value is no method, which
// nobody may call.
type MethodID uint8

// The methods.
const (
	MethodNone MethodID = iota
	MethodVerifyCryptogram
	MethodVerifyCryptograms
	MethodRespond
	MethodGetStatus
	MethodListKeys
	MethodRecycleWorkers
	MethodReloadPolicy
	MethodShow
	MethodSuspend
	MethodResume
	MethodDelete
	MethodRestrict
	MethodResetWindow
	MethodListStops
	MethodBackupState
	MethodWatchEvents
	MethodHealthCheck
	MethodHealthList
	MethodHealthWatch
	MethodReflection
	MethodReflectionAlpha
	MethodMetrics
	methodCount
)

// A Method is a row of the table of methods: what there is to be granted, and
// to whom it may be granted at most.
type Method struct {
	ID   MethodID
	Name string // full gRPC name without a leading slash

	// ByKeySet says that each use concerns one key set, which the grant and the
	// principal must both name.
	ByKeySet bool
	// Roles are those that the policy may grant it to. Without a ceiling one row
	// could give an auditor the caller's methods, and the forbidden combinations
	// of roles would mean nothing.
	Roles RoleSet
	// Persons and Workloads say which kinds may use it. What changes something
	// needs a person: a stolen machine certificate must not be able to act. The
	// exceptions are what stops a token, which has to be easy, and what a wallet's
	// provisioning service does for its customers.
	Persons, Workloads bool
}

const (
	anyRole RoleSet = 1<<RoleCaller | 1<<RoleOperator | 1<<RoleKeyManager | 1<<RoleSecurityOfficer | 1<<RoleCustodian | 1<<RoleAuditor
	readers RoleSet = 1<<RoleOperator | 1<<RoleAuditor
	keepers RoleSet = 1<<RoleOperator | 1<<RoleSecurityOfficer
)

// methodTable is indexed by MethodID.
var methodTable = [methodCount]Method{
	MethodVerifyCryptogram: {
		Name: "tapseal.v1.CryptogramService/VerifyCryptogram", ByKeySet: true, Roles: 1 << RoleCaller, Workloads: true,
	},
	MethodVerifyCryptograms: {
		Name: "tapseal.v1.CryptogramService/VerifyCryptograms", ByKeySet: true, Roles: 1 << RoleCaller, Workloads: true,
	},
	MethodRespond: {
		Name: "tapseal.v1.CryptogramService/Respond", ByKeySet: true, Roles: 1 << RoleCaller, Workloads: true,
	},
	MethodGetStatus: {
		Name: "tapseal.v1.AdminService/GetStatus", Roles: readers, Persons: true, Workloads: true,
	},
	MethodListKeys: {
		Name: "tapseal.v1.AdminService/ListKeys", Roles: readers | 1<<RoleKeyManager | 1<<RoleSecurityOfficer, Persons: true, Workloads: true,
	},
	MethodRecycleWorkers: {
		Name: "tapseal.v1.AdminService/RecycleWorkers", Roles: 1 << RoleOperator, Persons: true,
	},
	MethodReloadPolicy: {
		Name: "tapseal.v1.AdminService/ReloadPolicy", Roles: 1 << RoleSecurityOfficer, Persons: true,
	},
	MethodShow: {
		Name: "tapseal.v1.AdminService/Show", Roles: keepers | 1<<RoleAuditor, Persons: true, Workloads: true,
	},
	MethodSuspend: {
		Name: "tapseal.v1.AdminService/Suspend", Roles: keepers, Persons: true, Workloads: true,
	},
	MethodResume: {
		Name: "tapseal.v1.AdminService/Resume", Roles: keepers, Persons: true, Workloads: true,
	},
	MethodDelete: {
		Name: "tapseal.v1.AdminService/Delete", Roles: 1 << RoleSecurityOfficer, Persons: true,
	},
	MethodRestrict: {
		Name: "tapseal.v1.AdminService/Restrict", Roles: keepers, Persons: true, Workloads: true,
	},
	MethodResetWindow: {
		Name: "tapseal.v1.AdminService/ResetWindow", Roles: 1 << RoleSecurityOfficer, Persons: true,
	},
	MethodListStops: {
		Name: "tapseal.v1.AdminService/ListStops", Roles: keepers | 1<<RoleAuditor, Persons: true, Workloads: true,
	},
	// A copy of what is known of all tokens, for a timer as well.
	MethodBackupState: {
		Name: "tapseal.v1.AdminService/BackupState", Roles: 1 << RoleOperator, Persons: true, Workloads: true,
	},
	// What each role sees of the events is up to the service.
	MethodWatchEvents: {
		Name: "tapseal.v1.AdminService/WatchEvents", Roles: keepers | 1<<RoleAuditor | 1<<RoleCaller, Persons: true, Workloads: true,
	},
	MethodHealthCheck: {Name: "grpc.health.v1.Health/Check", Roles: anyRole, Persons: true, Workloads: true},
	MethodHealthList:  {Name: "grpc.health.v1.Health/List", Roles: anyRole, Persons: true, Workloads: true},
	MethodHealthWatch: {Name: "grpc.health.v1.Health/Watch", Roles: anyRole, Persons: true, Workloads: true},
	MethodReflection: {
		Name: "grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Roles: anyRole, Persons: true, Workloads: true,
	},
	MethodReflectionAlpha: {
		Name: "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Roles: anyRole, Persons: true, Workloads: true,
	},
	// Not gRPC, but a listener all the same: scraping needs a row like any call.
	MethodMetrics: {Name: "http/metrics", Roles: readers, Persons: true, Workloads: true},
}

// String is the method's full name, "none" for no method.
func (m MethodID) String() string {
	if m == MethodNone || m >= methodCount {
		return "none"
	}
	return methodTable[m].Name
}

// MethodByName finds a method by its full gRPC name, with or without the
// leading slash. It does not allocate.
func MethodByName(full string) (MethodID, bool) {
	full = strings.TrimPrefix(full, "/")
	for id := MethodNone + 1; id < methodCount; id++ {
		if methodTable[id].Name == full {
			return id, true
		}
	}
	return MethodNone, false
}

// FindMethod finds a method by its full name or, for people, by the part after
// the last slash where only one method has it.
func FindMethod(name string) (MethodID, error) {
	if id, ok := MethodByName(name); ok {
		return id, nil
	}
	var found []MethodID
	var all []string
	for id := MethodNone + 1; id < methodCount; id++ {
		all = append(all, id.String())
		if strings.HasSuffix(id.String(), "/"+name) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return MethodNone, fmt.Errorf("unknown method %s (hint: one of %s)", shown(name), strings.Join(all, ", "))
	}
	return MethodNone, fmt.Errorf("%s is the name of %s and %s: give the full name", shown(name), found[0], found[1])
}

// ByKeySet reports whether each use of the method concerns one key set.
func (m MethodID) ByKeySet() bool { return m < methodCount && methodTable[m].ByKeySet }

// MethodTable lists every method that a policy can grant.
func MethodTable() []Method {
	list := make([]Method, 0, methodCount-1)
	for id := MethodNone + 1; id < methodCount; id++ {
		m := methodTable[id]
		m.ID = id
		list = append(list, m)
	}
	return list
}

// fits reports whether the kind may use the method at all.
func (m *Method) fits(k Kind) bool {
	return k == KindPerson && m.Persons || k == KindWorkload && m.Workloads
}
