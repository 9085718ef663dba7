package pkcs11

import (
	"errors"
	"io"

	"github.com/tapseal/tapseal/hsm/admin"
)

// ServeAdmin is the admin process: one order from r, its result or failure to
// w. It returns the failure too, so that the exit status shows it.
func ServeAdmin(r io.Reader, w io.Writer) error {
	order, err := admin.ReadOrder(r)
	var res admin.Result
	if err == nil {
		res, err = perform(&order)
		if order.Act.Key != nil {
			clear(order.Act.Key.Value[:])
		}
	}
	return errors.Join(err, admin.WriteReply(w, res, err))
}
