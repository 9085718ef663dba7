package worker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/keys"
)

// readBufferBytes holds one frame of the largest size and much of the next.
const readBufferBytes = 2 * (frame.HeaderBytes + frame.MaxPayloadBytes)

// A conn is one client. One goroutine reads all there is, takes it through
// the token in chunks and writes the replies: nothing is handed over between
// goroutines, and what a client sends too fast stays in the kernel's bounded
// socket buffer.
type conn struct {
	s  *Server
	nc *net.UnixConn

	in           []byte
	read, filled int // in[read:filled] is not consumed yet
	out          []byte
	held         replies
	ahead        int // items in the buffer behind the last one, about
	chunk        chunk

	now           int64 // recent reading of the clock
	partialSince  int64 // 0, or when the incomplete frame at in[read:] began
	lastData      int64
	readDeadline  int64 // as armed, 0 is none
	writeDeadline int64
	goneAway      bool
}

func newConn(s *Server, nc *net.UnixConn) *conn {
	return &conn{s: s, nc: nc, in: make([]byte, readBufferBytes), out: make([]byte, 0, 1024), now: s.clock.now()}
}

// errProtocol closes a connection whose client does what the protocol does
// not have.
var errProtocol = errors.New("unexpected frame")

// errSilent closes a connection without a complaint.
var errSilent = errors.New("client is silent")

func (c *conn) serve() {
	defer func() { _ = c.nc.Close() }()
	err := c.handshake()
	for err == nil {
		if err = c.fill(); err == nil {
			err = c.consume()
		}
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, errSilent), errors.Is(err, net.ErrClosed):
	default:
		// Errors of frame and net have no content of what was received.
		c.s.o.Log.Warn("connection closed", "error", err)
	}
}

func (c *conn) handshake() error {
	if err := c.nc.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	h, payload, err := frame.Read(c.nc, c.in)
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	if h.Type != frame.TypeHello {
		return fmt.Errorf("handshake: %w", errProtocol)
	}
	if err := frame.DecodeHello(payload); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	if _, err := c.nc.Write(c.s.welcome); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	if err := c.nc.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	return nil
}

// consume takes every complete frame of the buffer through the token.
func (c *conn) consume() error {
	frames := 0
	for {
		h, payload, ok, err := c.nextFrame()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		frames++
		switch h.Type {
		case frame.TypeVerify:
			err = c.verify(payload, int(h.Count))
		case frame.TypeHealth:
			err = c.health(payload)
		case frame.TypeSubject:
			err = c.subject(payload)
		default:
			err = fmt.Errorf("%w: type %d", errProtocol, h.Type)
		}
		if err != nil {
			return err
		}
	}
	switch {
	case c.read == c.filled:
		c.partialSince = 0
	case frames > 0 || c.partialSince == 0:
		c.partialSince = c.now
	}
	if err := c.execute(); err != nil {
		return err
	}
	return c.release()
}

// nextFrame gives the frame at the front of the buffer, if it is complete.
func (c *conn) nextFrame() (frame.Header, []byte, bool, error) {
	b := c.in[c.read:c.filled]
	if len(b) < frame.HeaderBytes {
		return frame.Header{}, nil, false, nil
	}
	h, err := frame.ParseHeader(b)
	if err != nil {
		return frame.Header{}, nil, false, err
	}
	end := frame.HeaderBytes + int(h.PayloadBytes)
	if len(b) < end {
		return frame.Header{}, nil, false, nil
	}
	c.read += end
	return h, b[frame.HeaderBytes:end], true, nil
}

// verify decodes the items of one frame into the chunk, which is executed
// whenever it is full.
func (c *conn) verify(payload []byte, count int) error {
	for range count {
		e := &c.chunk.entries[c.chunk.n]
		rest, err := frame.DecodeItem(payload, &e.item)
		if err != nil {
			return err
		}
		// How many are there still, taken that they are alike.
		c.ahead = (len(rest) + c.filled - c.read) / (len(payload) - len(rest))
		payload = rest
		c.s.admit(e, c.now)
		c.chunk.n++
		if c.chunk.n < chunkItems {
			continue
		}
		if err := c.execute(); err != nil {
			return err
		}
	}
	if count == 0 || len(payload) != 0 {
		return fmt.Errorf("%w: item count", frame.ErrFrame)
	}
	return nil
}

// execute takes the chunk through the token. Its replies may wait for those of
// the next chunks: each write wakes the client, and waking costs both sides
// more than all else that is done for a verification outside the token.
func (c *conn) execute() error {
	if c.chunk.n == 0 {
		return nil
	}
	c.s.execute(&c.chunk)
	c.now = c.s.clock.now()
	c.held.add(&c.chunk, c.now)
	c.chunk.n = 0
	if c.held.due(c.now, c.ahead) {
		return c.release()
	}
	return nil
}

// release writes the replies that wait.
func (c *conn) release() error {
	if c.held.n == 0 {
		return nil
	}
	return c.write(c.held.take())
}

// health proves an active key in the token, now: the first one that can be
// proved, because one bad key among many must not stop the others.
func (c *conn) health(payload []byte) error {
	id, err := frame.DecodeHealth(payload)
	if err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	c.out = frame.AppendHealthy(c.out[:0], id, c.s.proveAny())
	return c.write(c.out)
}

// subject hashes one PAN for an administrator.
func (c *conn) subject(payload []byte) error {
	id, pan, psn, err := frame.DecodeSubject(payload)
	if err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	in := keys.NewSubjectInput(&pan, psn)
	r := frame.SubjectsReply{ID: id}
	r.Subjects, r.Status = c.s.hash(&in)
	c.out = frame.AppendSubjects(c.out[:0], &r)
	return c.write(c.out)
}

// flush answers all that came before.
func (c *conn) flush() error {
	if err := c.execute(); err != nil {
		return err
	}
	return c.release()
}

// hash gives the subjects exactly with StatusMatched.
func (s *Server) hash(in *keys.SubjectInput) ([2]keys.Subject, frame.Status) {
	if !s.keys.hashes() {
		return [2]keys.Subject{}, frame.StatusKeyUnknown
	}
	s.enter()
	subjects, err := s.o.Token.Hash(in)
	s.leave()
	if err == nil && s.keys.hashed(&subjects) {
		return subjects, frame.StatusMatched
	}
	s.noteFailure()
	return [2]keys.Subject{}, statusOfError(err) // without an error: not what was asked for
}

// proveAny proves the subject keys, without which no verification is answered,
// and one active key. It answers with the first one that is proved, else with
// what the last one failed with. The cost of keys refused before is a map
// look-up.
func (s *Server) proveAny() frame.Status {
	for i := range s.keys.subjects {
		if v := &s.keys.subjects[i]; v.Number != 0 {
			if status := s.prove(v.ID); status != frame.StatusMatched {
				return status
			}
		}
	}
	status := frame.StatusKeyUnknown
	for _, id := range s.keys.active {
		status = s.prove(id)
		// After a token failure the module could not tell: no point in
		// asking it about every key.
		if status == frame.StatusMatched || status == frame.StatusTokenFailure {
			return status
		}
	}
	return status
}

func (s *Server) prove(id keys.ID) frame.Status {
	s.enter()
	err := s.o.Token.Prove(id)
	s.leave()
	if err == nil {
		return frame.StatusMatched
	}
	s.noteFailure()
	return statusOfError(err)
}

// write sends b whole, or ends the connection of a client that does not read.
// The deadline is moved only when half of it is used up: setting one for each
// write would cost as much as the write.
func (c *conn) write(b []byte) error {
	c.now = c.s.clock.now()
	timeout := int64(c.s.o.WriteTimeout)
	if c.writeDeadline-c.now < timeout/2 {
		c.writeDeadline = c.now + timeout
		if err := c.nc.SetWriteDeadline(time.Now().Add(c.s.o.WriteTimeout)); err != nil {
			return fmt.Errorf("writing replies: %w", err)
		}
	}
	if _, err := c.nc.Write(b); err != nil {
		return fmt.Errorf("writing replies: %w", err)
	}
	return nil
}

// fill waits for bytes and reads what is there.
func (c *conn) fill() error {
	c.filled = copy(c.in, c.in[c.read:c.filled])
	c.read = 0
	for {
		if err := c.arm(); err != nil {
			return err
		}
		// After arming: Drain sets the flag first and then wakes the reader
		// by a deadline in the past, which arming may have undone.
		if c.s.draining.Load() && !c.goneAway {
			c.goneAway = true
			c.out = frame.AppendGoAway(c.out[:0])
			if err := c.write(c.out); err != nil {
				return err
			}
			c.lastData = c.now
			continue
		}
		n, err := c.nc.Read(c.in[c.filled:])
		c.now = c.s.clock.now()
		if n > 0 {
			c.filled += n
			c.lastData = c.now
			return nil
		}
		if err == nil {
			err = io.EOF
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("reading requests: %w", err)
		}
		if until := c.patience(); until != 0 && c.now >= until {
			return errSilent
		}
		c.readDeadline = -1 // has passed, must be armed again
	}
}

// patience is when to give up on the client, 0 for never: an idle client is
// welcome, one with half a frame or one that was told to go away is not.
func (c *conn) patience() int64 {
	var until int64
	if c.partialSince != 0 {
		until = c.partialSince + int64(frameTimeout)
	}
	if c.goneAway {
		quiet := c.lastData + int64(drainIdle)
		if until == 0 || quiet < until {
			until = quiet
		}
	}
	return until
}

// arm sets the read deadline if the one in force is later than wanted. An
// earlier one is left alone: when it passes, fill looks again.
func (c *conn) arm() error {
	want := c.patience()
	switch {
	case c.readDeadline >= 0 && want == 0:
		return nil
	case c.readDeadline > 0 && c.readDeadline <= want:
		return nil
	}
	c.readDeadline = want
	var at time.Time
	if want != 0 {
		at = time.Now().Add(time.Duration(want - c.now))
	}
	if err := c.nc.SetReadDeadline(at); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	return nil
}

// wake makes a reader that waits look at the draining flag.
func (c *conn) wake() { _ = c.nc.SetReadDeadline(time.Unix(1, 0)) }
