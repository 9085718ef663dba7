package scratch

import (
	"strings"
	"testing"
)

func TestCheckSoftHSMPath(t *testing.T) {
	for path, ok := range map[string]bool{
		"/tmp/dev": true, "/tmp/with space/dev-1.2_x": true, "/tmp/straße": true,
		"/tmp/a=b": false, "/tmp/#1/dev": false, "/tmp/a\nb": false, "/tmp/a\rb": false,
	} {
		err := CheckSoftHSMPath(path)
		if (err == nil) != ok {
			t.Errorf("%q: %v", path, err)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\r\n") {
			t.Errorf("%q: the error has more than one line", path)
		}
	}
}
