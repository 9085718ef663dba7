package main

import (
	"context"
	"fmt"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// WorkersCmd manages workers.
type WorkersCmd struct {
	Recycle WorkersRecycleCmd `cmd:"" help:"Replace every worker process, one after the other, without an interruption: shows what would be done, or with --yes does it."`
}

// WorkersRecycleCmd recycles the workers.
type WorkersRecycleCmd struct {
	Yes    bool   `help:"Do it. Without this only what would be done is shown."`
	Reason string `help:"Why, for the journal." placeholder:"TEXT"`
	JSON   bool   `help:"Print one JSON object."`
}

// Help says who may.
func (*WorkersRecycleCmd) Help() string {
	return "Needs role operator. Returns when the supervisor has begun; tapseal status shows when it is done."
}

// recycling is what was done, or would be.
type recycling struct {
	Applied bool     `json:"applied"`
	Workers []uint32 `json:"workers"` // slots
}

// Run shows or acts.
func (c *WorkersRecycleCmd) Run(std streams, file contextFile) error {
	if c.Yes && c.Reason == "" {
		return errNoReason
	}
	r := recycling{Applied: c.Yes, Workers: []uint32{}}
	err := file.administration(roleOperator, func(ctx context.Context, a tapsealv1.AdminServiceClient) error {
		s, err := a.GetStatus(ctx, &tapsealv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		for _, w := range s.GetHsm().GetWorkers() {
			r.Workers = append(r.Workers, w.GetSlot())
		}
		if c.Yes {
			_, err = a.RecycleWorkers(ctx, &tapsealv1.RecycleWorkersRequest{Reason: c.Reason})
		}
		return err
	})
	if err != nil {
		return err
	}
	text := fmt.Sprintf("would replace %d workers; nothing was done (--yes does it)\n", len(r.Workers))
	if c.Yes {
		text = fmt.Sprintf("replacing %d workers\n", len(r.Workers))
	}
	if c.JSON {
		if text, err = render(r); err != nil {
			return err
		}
	}
	_, err = fmt.Fprint(std.out, text)
	return err
}
