package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// HasPIN reports whether there is a PIN that a service could read. It looks at
// what Vault knows about the entry, not at the PIN.
func (a *Admin) HasPIN(ctx context.Context, c PINConfig) (bool, error) {
	c = c.withDefaults()
	s, err := a.conn.read(ctx, c.Mount+"/metadata/"+c.Path)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for the PIN: %w", err)
	}
	number, _ := s.Data["current_version"].(json.Number)
	versions, _ := s.Data["versions"].(map[string]any)
	current, _ := versions[number.String()].(map[string]any)
	deleted, _ := current["deletion_time"].(string)
	destroyed, _ := current["destroyed"].(bool)
	return current != nil && deleted == "" && !destroyed, nil
}

// SignCertificate has a PKI engine sign a request in PEM form with a role of
// it. What comes back is the certificate and the intermediates above it.
func (a *Admin) SignCertificate(ctx context.Context, mount, role string, request []byte) ([]byte, error) {
	s, err := a.conn.write(ctx, mount+"/sign/"+role, map[string]any{"csr": string(request), "format": "pem"})
	if err != nil {
		return nil, fmt.Errorf("signing a certificate of role %s: %w", role, err)
	}
	if s == nil {
		return nil, fmt.Errorf("signing a certificate of role %s: %w: no certificate in the answer", role, ErrRefused)
	}
	leaf, _ := s.Data["certificate"].(string)
	text := leaf + "\n"
	chain, _ := s.Data["ca_chain"].([]any)
	for _, c := range chain {
		above, _ := c.(string)
		certificates, err := parseCertificates([]byte(above))
		if err != nil {
			return nil, fmt.Errorf("signing a certificate of role %s: %w: ca_chain %w", role, ErrRefused, err)
		}
		if certificates[0].CheckSignatureFrom(certificates[0]) != nil { // the other side has the root
			text += above + "\n"
		}
	}
	if _, err := parseCertificates([]byte(text)); err != nil {
		return nil, fmt.Errorf("signing a certificate of role %s: %w: the answer %w", role, ErrRefused, err)
	}
	return []byte(text), nil
}

// Authorities are the certificates of all issuers of a PKI engine, in PEM form.
func (a *Admin) Authorities(ctx context.Context, mount string) ([]byte, error) {
	answer, err := a.conn.list(ctx, mount+"/issuers")
	if err != nil {
		return nil, fmt.Errorf("reading authorities: %w", err)
	}
	var all []byte
	ids, _ := answer.Data["keys"].([]any)
	for _, id := range ids {
		name, _ := id.(string)
		if err := checkPart("issuer", name); err != nil {
			return nil, fmt.Errorf("reading authorities: %w: %w", ErrRefused, err)
		}
		s, err := a.conn.read(ctx, mount+"/issuer/"+name+"/json")
		if err != nil {
			return nil, fmt.Errorf("reading authority %s: %w", name, err)
		}
		text, _ := s.Data["certificate"].(string)
		if _, err := parseCertificates([]byte(text)); err != nil {
			return nil, fmt.Errorf("reading authority %s: %w: the answer %w", name, ErrRefused, err)
		}
		all = append(append(all, text...), '\n')
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("reading authorities: %w", ErrNotFound)
	}
	return all, nil
}
