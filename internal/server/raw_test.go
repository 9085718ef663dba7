package server

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// rawMessage is bytes that are sent as they are.
type rawMessage struct{ wire []byte }

type rawBytes struct{}

func (rawBytes) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(*rawMessage).wire)}, nil //nolint:errcheck // only used with it
}

func (rawBytes) Unmarshal(b mem.BufferSlice, v any) error {
	v.(*rawMessage).wire = b.Materialize() //nolint:errcheck // only used with it
	return nil
}

func (rawBytes) Name() string { return "proto" }

func rawCodec() grpc.CallOption { return grpc.ForceCodecV2(rawBytes{}) }
