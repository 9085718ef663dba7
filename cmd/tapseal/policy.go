package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/tapseal/tapseal/internal/authz"
)

// PolicyCmd reads policy files. Only reload needs the service.
type PolicyCmd struct {
	Check  PolicyCheckCmd  `cmd:"" help:"Check a policy file and list every fault by key and line."`
	WhoCan PolicyWhoCanCmd `cmd:"" name:"who-can" help:"List who may call a method."`
	Reload PolicyReloadCmd `cmd:"" help:"Have the service read its policy file again: shows what would change, or with --yes puts it in force."`
}

// PolicyCheckCmd checks a policy.
type PolicyCheckCmd struct {
	File string `arg:"" help:"Policy file."`
	JSON bool   `help:"Print one JSON object."`
}

// Help says what the exit status means.
func (*PolicyCheckCmd) Help() string {
	return "Exit status: 0 a service takes this file, 2 it does not. Warnings are for the reviewer and change nothing. " +
		"Prints the digest that a reload of the reviewed file needs."
}

// policyReport is what a check found.
type policyReport struct {
	File       string        `json:"file"`
	OK         bool          `json:"ok"`
	Digest     string        `json:"digest,omitempty"` // SHA-256, hexadecimal
	Principals int           `json:"principals"`
	Grants     int           `json:"grants"` // role × method
	Faults     []authz.Fault `json:"faults"`
	Warnings   []authz.Fault `json:"warnings"`
}

// Run checks the file.
func (c *PolicyCheckCmd) Run(std streams) error {
	policy, warnings, err := authz.Review(c.File)
	r := policyReport{File: c.File, Faults: []authz.Fault{}, Warnings: append([]authz.Fault{}, warnings...)}
	var faulty *authz.Error
	switch {
	case errors.As(err, &faulty):
		r.Faults = faulty.Faults
	case err != nil:
		return err
	default:
		r.OK, r.Digest = true, policy.Digest().String()
		r.Principals, r.Grants = len(policy.Principals()), policy.Grants()
	}
	if err := r.print(std, c.JSON); err != nil {
		return fmt.Errorf("printing the report: %w", err)
	}
	if !r.OK {
		return statusError(statusOther)
	}
	return nil
}

func (r *policyReport) print(std streams, asJSON bool) error {
	if asJSON {
		text, err := render(r)
		if err != nil {
			return err
		}
		_, err = io.WriteString(std.out, text)
		return err
	}
	if err := printFaults(std.err, r.File, "", r.Faults); err != nil {
		return err
	}
	if err := printFaults(std.err, r.File, "warning: ", r.Warnings); err != nil {
		return err
	}
	if !r.OK {
		return nil
	}
	_, err := fmt.Fprintf(std.out, "%s: %d principals, %d grants, digest %s\n", r.File, r.Principals, r.Grants, r.Digest)
	return err
}

// printFaults writes file:line: first, which editors jump to.
func printFaults(w io.Writer, file, kind string, list []authz.Fault) error {
	for _, f := range list {
		where := file
		if f.Line > 0 {
			where = fmt.Sprintf("%s:%d", file, f.Line)
		}
		f.Line = 0
		if _, err := fmt.Fprintf(w, "%s: %s%s\n", where, kind, f); err != nil {
			return err
		}
	}
	return nil
}

// PolicyWhoCanCmd asks a policy who may call a method.
type PolicyWhoCanCmd struct {
	Method string `arg:"" help:"Full name, for example tapseal.v1.AdminService/ReloadPolicy, or the last part of one."`
	File   string `arg:"" optional:"" default:"policy.yaml" help:"Policy file (default: policy.yaml)."`
	KeySet string `help:"Only who may use this key set." placeholder:"NAME"`
	JSON   bool   `help:"Print one JSON object."`
}

// whoCan is the answer.
type whoCan struct {
	Method     string       `json:"method"`
	KeySet     string       `json:"key_set,omitempty"`
	Principals []allowedOne `json:"principals"`
}

// allowedOne is one who may.
type allowedOne struct {
	Name       string   `json:"name"`
	Kind       string   `json:"kind"`
	Roles      []string `json:"roles"`
	Identities []string `json:"identities"`
	KeySets    []string `json:"key_sets,omitempty"` // with this method; "*" is every one
}

// Run answers.
func (c *PolicyWhoCanCmd) Run(std streams) error {
	method, err := authz.FindMethod(c.Method)
	if err != nil {
		return err
	}
	if c.KeySet != "" && !method.ByKeySet() {
		return fmt.Errorf("%s does not go by key set (hint: leave --key-set out)", method)
	}
	policy, _, err := authz.Review(c.File)
	if err != nil {
		return fmt.Errorf("%w (hint: tapseal policy check %s)", err, c.File)
	}
	answer := whoCan{Method: method.String(), KeySet: c.KeySet, Principals: []allowedOne{}}
	for _, p := range policy.WhoCan(method, c.KeySet) {
		one := allowedOne{Name: p.Name(), Kind: p.Kind().String(), Identities: p.Identities(), KeySets: p.KeySets(method)}
		for _, r := range p.Roles().List() {
			one.Roles = append(one.Roles, r.String())
		}
		answer.Principals = append(answer.Principals, one)
	}
	if err := answer.print(std.out, c.JSON); err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	return nil
}

func (a *whoCan) print(w io.Writer, asJSON bool) error {
	if asJSON {
		text, err := render(a)
		if err != nil {
			return err
		}
		_, err = io.WriteString(w, text)
		return err
	}
	if len(a.Principals) == 0 {
		_, err := fmt.Fprintf(w, "nobody may call %s\n", a.Method)
		return err
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tKIND\tROLES\tKEY SETS\tIDENTITIES")
	for _, p := range a.Principals {
		sets := "-"
		if len(p.KeySets) > 0 {
			sets = strings.Join(p.KeySets, ",")
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", p.Name, p.Kind, strings.Join(p.Roles, ","), sets, strings.Join(p.Identities, " "))
	}
	return table.Flush()
}
