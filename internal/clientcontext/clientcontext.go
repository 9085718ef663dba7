// Package clientcontext is the file that tells the command line where a
// service is and who asks: address, certificates, and in development mode the
// phone to tap with.
package clientcontext

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/tapseal/tapseal/internal/strictyaml"
)

// EnvName is the environment variable that names the file.
const EnvName = "TAPSEAL_CONTEXT"

// FileName is the name of the file that development mode writes for the caller.
const FileName = "context.yaml"

// RoleFileName is the name of the one that it writes beside it for a person or
// workload with another role.
func RoleFileName(role string) string { return "context-" + role + ".yaml" }

// A Context is one service as one caller sees it. Paths are relative to the
// file; Load makes them absolute.
type Context struct {
	Address string `yaml:"address"`         // host:port of the gRPC service
	Admin   string `yaml:"admin,omitempty"` // host:port of its administration, where this identity may go there
	TLS     TLS    `yaml:"tls"`
	Phone   string `yaml:"phone,omitempty"` // directory of the demo phone; only in development mode
}

// TLS is the caller's identity and the authority that the service's
// certificate must come from.
type TLS struct {
	CA          string `yaml:"ca"`          // PEM
	Certificate string `yaml:"certificate"` // PEM, leaf first
	Key         string `yaml:"key"`         // PEM
}

// Load reads and checks a context file. The error names the file and the key.
func Load(path string) (*Context, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the context: %w", err)
	}
	c := &Context{}
	if err := strictyaml.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("context %s: %w", path, err)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("context %s: %w", path, err)
	}
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("context %s: %w", path, err)
	}
	for _, p := range []*string{&c.TLS.CA, &c.TLS.Certificate, &c.TLS.Key, &c.Phone} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
	return c, nil
}

func (c *Context) check() error {
	if _, _, err := net.SplitHostPort(c.Address); err != nil {
		return errors.New("address: must be host:port")
	}
	if _, _, err := net.SplitHostPort(c.Admin); c.Admin != "" && err != nil {
		return errors.New("admin: must be host:port")
	}
	for _, v := range []struct{ key, value string }{
		{"tls.ca", c.TLS.CA}, {"tls.certificate", c.TLS.Certificate}, {"tls.key", c.TLS.Key},
	} {
		if v.value == "" {
			return fmt.Errorf("%s: is required", v.key)
		}
	}
	return nil
}

// Marshal writes the context as YAML that Load reads back.
func (c *Context) Marshal() ([]byte, error) {
	data, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("writing the context: %w", err)
	}
	return data, nil
}

// TLSConfig is the client's side of mutual TLS 1.3.
func (c *Context) TLSConfig() (*tls.Config, error) {
	own, err := tls.LoadX509KeyPair(c.TLS.Certificate, c.TLS.Key)
	if err != nil {
		return nil, fmt.Errorf("loading the client certificate: %w", err)
	}
	pem, err := os.ReadFile(c.TLS.CA)
	if err != nil {
		return nil, fmt.Errorf("loading the authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("loading the authority: no certificate in %s", c.TLS.CA)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		RootCAs:      roots,
		Certificates: []tls.Certificate{own},
	}, nil
}
