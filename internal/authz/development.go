package authz

import (
	"bytes"
	"fmt"
	"text/template"
)

// Development is who there is in development mode: one URI name each. An empty
// one leaves its principal out.
type Development struct {
	Caller          string
	Operator        string
	SecurityOfficer string
	KeyManager      string
	Auditor         string
	Monitor         string // a workload that scrapes metrics
}

// developmentText grants what each role is for. Limits are wide, because a
// bench runs against it.
var developmentText = template.Must(template.New("policy").Parse(`# Made for development mode. Who may do what; whatever is not here is refused.
principals:
{{- if .Caller}}
  - name: developer
    kind: workload
    identities: ["{{.Caller}}"]
    roles: [caller]
    key_sets: "*"
    limits: {taps_per_second: 1000000, burst: 1000000, taps_in_flight: 1000000, streams: 10000}
{{- end}}
{{- if .Operator}}
  - name: operator
    kind: person
    identities: ["{{.Operator}}"]
    roles: [operator]
{{- end}}
{{- if .SecurityOfficer}}
  - name: security-officer
    kind: person
    identities: ["{{.SecurityOfficer}}"]
    roles: [security-officer]
{{- end}}
{{- if .KeyManager}}
  - name: key-manager
    kind: person
    identities: ["{{.KeyManager}}"]
    roles: [key-manager]
{{- end}}
{{- if .Auditor}}
  - name: auditor
    kind: person
    identities: ["{{.Auditor}}"]
    roles: [auditor]
{{- end}}
{{- if .Monitor}}
  - name: monitor
    kind: workload
    identities: ["{{.Monitor}}"]
    roles: [operator]    # may read, and stop tokens; other acts need a person
{{- end}}

grants:
  - role: caller
    methods:
      - tapseal.v1.CryptogramService/VerifyCryptogram
      - tapseal.v1.CryptogramService/VerifyCryptograms
      - tapseal.v1.CryptogramService/Respond
    key_sets: "*"
  - role: caller
    methods:
      - tapseal.v1.AdminService/WatchEvents
      - grpc.health.v1.Health/Check
      - grpc.health.v1.Health/List
      - grpc.health.v1.Health/Watch
      - grpc.reflection.v1.ServerReflection/ServerReflectionInfo
      - grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo
    key_sets: none
  - role: operator
    methods:
      - tapseal.v1.AdminService/GetStatus
      - tapseal.v1.AdminService/ListKeys
      - tapseal.v1.AdminService/RecycleWorkers
      - tapseal.v1.AdminService/Show
      - tapseal.v1.AdminService/ListStops
      - tapseal.v1.AdminService/Suspend
      - tapseal.v1.AdminService/Resume
      - tapseal.v1.AdminService/Restrict
      - tapseal.v1.AdminService/BackupState
      - tapseal.v1.AdminService/WatchEvents
      - http/metrics
      - grpc.health.v1.Health/Check
      - grpc.health.v1.Health/List
      - grpc.health.v1.Health/Watch
      - grpc.reflection.v1.ServerReflection/ServerReflectionInfo
      - grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo
    key_sets: none
  - role: auditor
    methods:
      - tapseal.v1.AdminService/GetStatus
      - tapseal.v1.AdminService/ListKeys
      - tapseal.v1.AdminService/Show
      - tapseal.v1.AdminService/ListStops
      - tapseal.v1.AdminService/WatchEvents
      - http/metrics
      - grpc.health.v1.Health/Check
      - grpc.health.v1.Health/List
      - grpc.health.v1.Health/Watch
      - grpc.reflection.v1.ServerReflection/ServerReflectionInfo
      - grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo
    key_sets: none
  - role: key-manager
    methods: [tapseal.v1.AdminService/ListKeys]
    key_sets: none
  - role: security-officer
    methods:
      - tapseal.v1.AdminService/ListKeys
      - tapseal.v1.AdminService/ReloadPolicy
      - tapseal.v1.AdminService/Show
      - tapseal.v1.AdminService/ListStops
      - tapseal.v1.AdminService/Suspend
      - tapseal.v1.AdminService/Resume
      - tapseal.v1.AdminService/Delete
      - tapseal.v1.AdminService/Restrict
      - tapseal.v1.AdminService/ResetWindow
      - tapseal.v1.AdminService/WatchEvents
    key_sets: none
`))

// DevelopmentPolicy is the policy file of development mode. It has passed the
// checks of every policy.
func DevelopmentPolicy(d Development) ([]byte, error) {
	for _, uri := range []string{d.Caller, d.Operator, d.SecurityOfficer, d.KeyManager, d.Auditor, d.Monitor} {
		if uri == "" {
			continue
		}
		if err := CheckIdentity(uri); err != nil {
			return nil, fmt.Errorf("making a policy: identity %s %w", shown(uri), err)
		}
	}
	var b bytes.Buffer
	if err := developmentText.Execute(&b, d); err != nil {
		return nil, fmt.Errorf("making a policy: %w", err)
	}
	if _, err := Parse(b.Bytes()); err != nil {
		return nil, fmt.Errorf("making a policy: %w", err)
	}
	return b.Bytes(), nil
}
