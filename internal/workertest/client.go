package workertest

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
)

// ErrGoAway is what Receive gives for a GoAway frame.
var ErrGoAway = errors.New("worker said GoAway")

// A Client speaks frames, one thing at a time.
type Client struct {
	Conn  net.Conn
	Epoch [frame.EpochBytes]byte
	Keys  []frame.KeyEntry
	buf   []byte
}

// Dial connects and shakes hands within limit.
func Dial(path string, limit time.Duration) (*Client, error) {
	c, err := net.DialTimeout("unix", path, limit)
	if err != nil {
		return nil, err
	}
	cl := &Client{Conn: c, buf: make([]byte, frame.MaxPayloadBytes)}
	_ = c.SetDeadline(time.Now().Add(limit))
	if err := cl.handshake(); err != nil {
		_ = c.Close()
		return nil, err
	}
	_ = c.SetDeadline(time.Time{})
	return cl, nil
}

func (c *Client) handshake() error {
	if _, err := c.Conn.Write(frame.AppendHello(nil)); err != nil {
		return err
	}
	h, payload, err := frame.Read(c.Conn, c.buf)
	if err != nil {
		return err
	}
	if h.Type != frame.TypeWelcome {
		return fmt.Errorf("got frame type %d, want Welcome", h.Type)
	}
	w, err := frame.DecodeWelcome(payload)
	if err != nil {
		return err
	}
	c.Epoch = w.Epoch
	for uint32(len(c.Keys)) < w.Keys {
		h, payload, err := frame.Read(c.Conn, c.buf)
		if err != nil {
			return err
		}
		if h.Type != frame.TypeKeyTable {
			return fmt.Errorf("got frame type %d, want KeyTable", h.Type)
		}
		if c.Keys, err = frame.DecodeKeyTable(payload, int(h.Count), c.Keys); err != nil {
			return err
		}
	}
	return nil
}

// Frame encodes items as one Verify frame.
func Frame(items ...frame.Item) []byte {
	b, start := frame.Begin(nil)
	for i := range items {
		b = frame.AppendItem(b, &items[i])
	}
	frame.End(b, start, frame.TypeVerify, len(items))
	return b
}

// Send writes one Verify frame.
func (c *Client) Send(items ...frame.Item) error {
	_, err := c.Conn.Write(Frame(items...))
	return err
}

// Receive reads one Replies frame.
func (c *Client) Receive() ([]frame.Reply, error) {
	h, payload, err := frame.Read(c.Conn, c.buf)
	if err != nil {
		return nil, err
	}
	switch h.Type {
	case frame.TypeReplies:
	case frame.TypeGoAway:
		return nil, ErrGoAway
	default:
		return nil, fmt.Errorf("got frame type %d, want Replies", h.Type)
	}
	replies := make([]frame.Reply, h.Count)
	for i := range replies {
		if payload, err = frame.DecodeReply(payload, &replies[i]); err != nil {
			return nil, err
		}
	}
	return replies, nil
}

// Verify sends the items and waits for all replies, by id.
func (c *Client) Verify(items ...frame.Item) (map[uint64]frame.Reply, error) {
	if err := c.Send(items...); err != nil {
		return nil, err
	}
	got := map[uint64]frame.Reply{}
	for len(got) < len(items) {
		replies, err := c.Receive()
		if err != nil {
			return got, err
		}
		for _, r := range replies {
			if _, twice := got[r.ID]; twice {
				return got, fmt.Errorf("item %d was answered twice", r.ID)
			}
			got[r.ID] = r
		}
	}
	return got, nil
}

// Subject asks for the subjects of an account.
func (c *Client) Subject(id uint64, pan *cryptogram.PAN, psn cryptogram.PSN) (frame.SubjectsReply, error) {
	if _, err := c.Conn.Write(frame.AppendSubject(nil, id, pan, psn)); err != nil {
		return frame.SubjectsReply{}, err
	}
	h, payload, err := frame.Read(c.Conn, c.buf)
	if err != nil {
		return frame.SubjectsReply{}, err
	}
	if h.Type != frame.TypeSubjects {
		return frame.SubjectsReply{}, fmt.Errorf("got frame type %d, want Subjects", h.Type)
	}
	r, err := frame.DecodeSubjects(payload)
	if err == nil && r.ID != id {
		err = errors.New("answer to another subject request")
	}
	return r, err
}

// Health asks for a canary.
func (c *Client) Health(id uint64) (frame.Status, error) {
	if _, err := c.Conn.Write(frame.AppendHealth(nil, id)); err != nil {
		return 0, err
	}
	h, payload, err := frame.Read(c.Conn, c.buf)
	if err != nil {
		return 0, err
	}
	if h.Type != frame.TypeHealthy {
		return 0, fmt.Errorf("got frame type %d, want Healthy", h.Type)
	}
	got, status, err := frame.DecodeHealthy(payload)
	if err == nil && got != id {
		err = errors.New("answer to another health request")
	}
	return status, err
}
