package pkcs11

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tapseal/tapseal/hsm/admin"
	"github.com/tapseal/tapseal/hsm/scratch"
)

// scratchLabel names the tokens that a scratch process makes for itself.
const scratchLabel = "tapseal-scratch"

// ServeScratch is the scratch process: one Setup line from r, then requests
// until r ends, each answered with a line to w. It returns nil at the end of
// r, and an error when the token cannot be used any more.
func ServeScratch(r io.Reader, w io.Writer) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), scratch.MaxLineBytes)
	if !lines.Scan() {
		return errors.Join(errors.New("scratch process got no setup"), lines.Err())
	}
	setup, err := scratch.DecodeSetup(lines.Bytes())
	if err != nil {
		return fmt.Errorf("scratch setup: %w", err)
	}
	token, err := openForScratch(&setup)
	if answered := answerScratch(w, nil, nil, err); err != nil || answered != nil {
		return errors.Join(err, answered)
	}
	defer token.Close()
	for lines.Scan() {
		var req scratch.Request
		var reply scratch.Reply
		err := scratch.DecodeRequest(lines.Bytes(), &req)
		if err == nil {
			err = token.Execute(&req.Root, &req.Plan, &reply.Outcome)
		}
		clear(req.Root[:])
		if answered := answerScratch(w, &req, &reply, err); answered != nil {
			return answered
		}
		if errors.Is(err, ErrDead) {
			return err
		}
	}
	return lines.Err()
}

func answerScratch(w io.Writer, req *scratch.Request, reply *scratch.Reply, failure error) error {
	var line []byte
	var err error
	if req == nil {
		line, err = scratch.AppendReply(nil, nil, 0, failure)
	} else {
		line, err = scratch.AppendReply(nil, &reply.Outcome, int(req.Plan.NumSteps), failure)
	}
	if err != nil {
		return err
	}
	_, err = w.Write(line)
	return err
}

// openForScratch logs in to the given token, or makes one first.
func openForScratch(setup *scratch.Setup) (*Scratch, error) {
	if setup.Own == scratch.OwnNothing {
		if setup.Slot == nil || setup.PINFile == "" {
			return nil, errors.New("a given token needs a slot and a pin file")
		}
		pin, err := readPINFile(setup.PINFile)
		if err != nil {
			return nil, err
		}
		return OpenScratch(Config{Module: setup.Module, ModuleArgs: setup.ModuleArgs, Slot: setup.Slot}, pin)
	}
	if setup.Slot != nil || setup.PINFile != "" || setup.ModuleArgs != "" {
		return nil, errors.New("a token of its own takes no slot, pin file or module arguments")
	}
	if err := checkOwnDir(setup.OwnDir); err != nil {
		return nil, err
	}
	cfg := Config{Module: setup.Module, TokenLabel: scratchLabel}
	switch setup.Own {
	case scratch.OwnSoftHSM:
		if os.Getenv("SOFTHSM2_CONF") != filepath.Join(setup.OwnDir, "softhsm2.conf") {
			return nil, errors.New("SOFTHSM2_CONF is not the one of the scratch directory")
		}
	case scratch.OwnNSS:
		cfg.ModuleArgs = admin.NSSArgs(setup.OwnDir, scratchLabel)
	default:
		return nil, fmt.Errorf("unknown kind of scratch token %q", setup.Own)
	}
	// The PIN never leaves this process, and the token ends with it.
	pin := randomPIN()
	if _, err := initToken(cfg, pin); err != nil {
		return nil, err
	}
	return OpenScratch(cfg, pin)
}

// checkOwnDir makes sure that a token is only ever made in a directory that
// was made for it: named so, private, and owned by this user.
func checkOwnDir(dir string) error {
	// No quote: the path becomes part of a parameter string of NSS.
	if !filepath.IsAbs(dir) || !strings.HasPrefix(filepath.Base(dir), scratch.DirPrefix) || strings.ContainsAny(dir, `'"`) {
		return errors.New("the scratch directory is not one that was made for it")
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("scratch directory: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o077 != 0 || int(st.Uid) != os.Geteuid() {
		return errors.New("the scratch directory is not private to this user")
	}
	return nil
}
