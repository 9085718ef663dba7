package secrets

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"
)

// PKIConfig says which certificate to get from Vault's PKI engine.
type PKIConfig struct {
	Mount       string   `yaml:"pki_mount,omitempty"` // default tapseal-pki
	Role        string   `yaml:"pki_role,omitempty"`  // default tapseal-daemon
	URI         string   `yaml:"uri"`                 // our principal, such as spiffe://example.org/tapseal/daemon
	DNSNames    []string `yaml:"dns_names,omitempty"`
	IPAddresses []string `yaml:"ip_addresses,omitempty"`
	TTLSeconds  int      `yaml:"ttl_seconds,omitempty"` // default: the role's
}

func (c PKIConfig) withDefaults() PKIConfig {
	if c.Mount == "" {
		c.Mount = DefaultNames().PKIMount
	}
	if c.Role == "" {
		c.Role = DefaultNames().Daemon
	}
	return c
}

// Validate says what is wrong, by key.
func (c PKIConfig) Validate() error {
	c = c.withDefaults()
	errs := []error{checkPart("pki_mount", c.Mount), checkPart("pki_role", c.Role)}
	if u, err := url.Parse(c.URI); err != nil || u.Scheme == "" || u.Host == "" {
		errs = append(errs, errors.New("uri: is required, such as spiffe://example.org/tapseal/daemon"))
	}
	for _, a := range c.IPAddresses {
		if net.ParseIP(a) == nil {
			errs = append(errs, fmt.Errorf("ip_addresses: %q is not an IP address", a))
		}
	}
	if c.TTLSeconds < 0 {
		errs = append(errs, errors.New("ttl_seconds: must be positive, or 0 for the role's"))
	}
	return errors.Join(errs...)
}

// OpenCertificates gets a certificate and keeps it renewed. The key is made in
// this process and never leaves it: Vault signs a request.
func (v *Vault) OpenCertificates(ctx context.Context, c PKIConfig, o CertificateOptions) (*Certificates, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = v.log
	}
	if o.Clock == nil {
		o.Clock = v.clock
	}
	return openCertificates(ctx, &pki{vault: v, config: c.withDefaults(), clock: o.Clock}, o)
}

type pki struct {
	vault  *Vault
	config PKIConfig
	clock  Clock
}

func (p *pki) issue(ctx context.Context) (*tls.Certificate, time.Time, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("making a key: %w", err)
	}
	request, err := p.request(key)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("making a request: %w", err)
	}
	data := map[string]any{"csr": string(request), "format": "pem"}
	if p.config.TTLSeconds > 0 {
		data["ttl"] = fmt.Sprintf("%ds", p.config.TTLSeconds)
	}
	answer, err := p.vault.write(ctx, p.config.Mount+"/sign/"+p.config.Role, data)
	if err != nil {
		return nil, time.Time{}, err
	}
	if answer == nil {
		return nil, time.Time{}, fmt.Errorf("%w: no certificate in the answer", ErrRefused)
	}
	certificate, err := p.accept(key, answer.Data)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return certificate, renewAt(certificate.Leaf), nil
}

// renewAt is at two thirds of the life: a third of it is for Vault to come back.
func renewAt(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(jitter(c.NotAfter.Sub(c.NotBefore) * 2 / 3))
}

func (p *pki) request(key *ecdsa.PrivateKey) ([]byte, error) {
	uri, err := url.Parse(p.config.URI)
	if err != nil {
		return nil, err
	}
	template := &x509.CertificateRequest{URIs: []*url.URL{uri}, DNSNames: p.config.DNSNames}
	for _, a := range p.config.IPAddresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(a))
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// accept checks that the answer is the certificate we asked for.
func (p *pki) accept(key *ecdsa.PrivateKey, data map[string]any) (*tls.Certificate, error) {
	text, _ := data["certificate"].(string)
	leaves, err := parseCertificates([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("the answer %w", err)
	}
	leaf := leaves[0]
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate is for another key")
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != p.config.URI {
		return nil, errors.New("the certificate does not have our uri, and only that")
	}
	if now := p.clock.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate is valid from %v to %v, and it is %v", leaf.NotBefore, leaf.NotAfter, now)
	}
	certificate := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	chain, _ := data["ca_chain"].([]any)
	for _, c := range chain {
		text, _ := c.(string)
		above, err := parseCertificates([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("ca_chain %w", err)
		}
		if above[0].CheckSignatureFrom(above[0]) != nil { // an intermediate: the other side has the root
			certificate.Certificate = append(certificate.Certificate, above[0].Raw)
		}
	}
	return certificate, nil
}

// trust reads every issuer of the engine, so that both authorities are known
// while one takes over from the other.
func (p *pki) trust(ctx context.Context, before *trust) (*trust, error) {
	answer, err := p.vault.list(ctx, p.config.Mount+"/issuers")
	if err != nil {
		return nil, err
	}
	ids, _ := answer.Data["keys"].([]any)
	issuers := make([]issuer, 0, len(ids))
	for _, id := range ids {
		name, _ := id.(string)
		if err := checkPart("issuer", name); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		i, err := p.issuer(ctx, name, before)
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", name, err)
		}
		issuers = append(issuers, i)
	}
	return newTrust(issuers, p.clock.Now())
}

func (p *pki) issuer(ctx context.Context, name string, before *trust) (issuer, error) {
	base := p.config.Mount + "/issuer/" + name
	answer, err := p.vault.read(ctx, base+"/json")
	if err != nil {
		return issuer{}, err
	}
	text, _ := answer.Data["certificate"].(string)
	certificates, err := parseCertificates([]byte(text))
	if err != nil {
		return issuer{}, fmt.Errorf("the answer %w", err)
	}
	answer, err = p.vault.read(ctx, base+"/crl")
	if err != nil {
		return issuer{}, err
	}
	text, _ = answer.Data["crl"].(string)
	lists, err := parseLists([]byte(text))
	if err != nil {
		return issuer{}, fmt.Errorf("the answer %w", err)
	}
	return newIssuer(certificates[0], lists[0], before)
}
