package authz

// A Combination is what no principal may be: all of Roles together, of Kind if
// that is set.
type Combination struct {
	Kind   Kind // KindNone is any
	Roles  RoleSet
	Reason string
}

const (
	reasonAsksAndRuns  = "who asks for verdicts must not administer the service that gives them"
	reasonOwnWitness   = "who audits must not have acted: nobody is a witness of his own acts"
	reasonMachineActs  = "acts on keys and rights, and their audit, need a person who can be asked"
	reasonOwnComponent = "who enters a component must not also propose or approve what is made of it"
)

// combinations is the whole table. It is checked when a policy is loaded and
// again whenever a principal is used, over everything that a person may do
// under any certificate.
var combinations = [...]Combination{
	{0, 1<<RoleCaller | 1<<RoleOperator, reasonAsksAndRuns},
	{0, 1<<RoleCaller | 1<<RoleKeyManager, reasonAsksAndRuns},
	{0, 1<<RoleCaller | 1<<RoleSecurityOfficer, reasonAsksAndRuns},
	{0, 1<<RoleCaller | 1<<RoleCustodian, reasonAsksAndRuns},
	{0, 1<<RoleCaller | 1<<RoleAuditor, reasonOwnWitness},
	{0, 1<<RoleOperator | 1<<RoleAuditor, reasonOwnWitness},
	{0, 1<<RoleKeyManager | 1<<RoleAuditor, reasonOwnWitness},
	{0, 1<<RoleSecurityOfficer | 1<<RoleAuditor, reasonOwnWitness},
	{0, 1<<RoleCustodian | 1<<RoleAuditor, reasonOwnWitness},
	{0, 1<<RoleKeyManager | 1<<RoleSecurityOfficer, "who proposes an act must not approve it"},
	{0, 1<<RoleKeyManager | 1<<RoleCustodian, reasonOwnComponent},
	{0, 1<<RoleSecurityOfficer | 1<<RoleCustodian, reasonOwnComponent},
	{KindPerson, 1 << RoleCaller, "taps come from terminals through a workload; a person who sends them is trying cards"},
	{KindWorkload, 1 << RoleKeyManager, reasonMachineActs},
	{KindWorkload, 1 << RoleSecurityOfficer, reasonMachineActs},
	{KindWorkload, 1 << RoleCustodian, reasonMachineActs},
	{KindWorkload, 1 << RoleAuditor, reasonMachineActs},
}

// Combinations lists what is forbidden, with the reason of each.
func Combinations() []Combination { return append([]Combination(nil), combinations[:]...) }

// matches reports whether a principal of this kind and these roles is what c
// forbids.
func (c *Combination) matches(k Kind, s RoleSet) bool {
	return s&c.Roles == c.Roles && (c.Kind == KindNone || c.Kind == k)
}

// sound reports whether a principal may exist: a kind, at least one role, and
// nothing forbidden.
func sound(k Kind, s RoleSet) bool {
	if k != KindPerson && k != KindWorkload || s&anyRole == 0 || s&^anyRole != 0 {
		return false
	}
	for i := range combinations {
		if combinations[i].matches(k, s) {
			return false
		}
	}
	return true
}
