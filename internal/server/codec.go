package server

import (
	"bytes"
	"errors"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that ours rests on
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

var errUndecodable = errors.New("request: is not a well-formed message of this method")

// codec is gRPC's own, but that a request of ours which does not decode
// reaches its handler, marked. gRPC would answer INTERNAL, as if the service
// were at fault, before any interceptor.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	if err == nil {
		return nil
	}
	switch m := v.(type) {
	case *tapsealv1.VerifyCryptogramRequest, *tapsealv1.VerifyCryptogramsRequest, *tapsealv1.RespondRequest:
		mark(m.(proto.Message)) //nolint:errcheck // all three are
		return nil
	}
	return err
}

// undecodableMark is an unknown field with the highest number there is, which
// no version of the API will use.
func undecodableMark() []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, protowire.MaxValidNumber, protowire.VarintType), 1)
}

func mark(m proto.Message) {
	proto.Reset(m)
	m.ProtoReflect().SetUnknown(undecodableMark())
}

// decoded reports a request that did not decode.
func decoded(m proto.Message) error {
	if u := m.ProtoReflect().GetUnknown(); len(u) > 0 && bytes.Equal(u, undecodableMark()) {
		return invalid(errUndecodable)
	}
	return nil
}
