package predicttest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Sum asks a model such as onnxtest.Simple by gRPC for a + b, as bytes, and gives
// the first of the sixteen numbers.
func Sum(ctx context.Context, conn grpc.ClientConnInterface, model string, a, b int32) (int32, error) {
	field := func(b []byte, number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
	}
	ask := field(nil, 1, []byte(model))
	for _, name := range []string{"INPUT0", "INPUT1"} {
		ask = field(ask, 5, field(field(field(nil, 1, []byte(name)), 2, []byte("INT32")), 3, []byte{1, 16}))
	}
	ask = field(ask, 6, field(nil, 1, []byte("OUTPUT0")))
	for _, x := range []int32{a, b} {
		ask = field(ask, 7, tensor.Raw(slices.Repeat([]int32{x}, 16)))
	}
	var answer []byte
	if err := conn.Invoke(ctx, "/"+oip.Service+"/ModelInfer", &ask, &answer, grpc.ForceCodec(wire{})); err != nil {
		return 0, err
	}
	if len(answer) < 64 { // the output's bytes are the last field
		return 0, fmt.Errorf("got %q", answer)
	}
	return int32(binary.LittleEndian.Uint32(answer[len(answer)-64:])), nil
}

// wire passes messages on as they are.
type wire struct{}

func (wire) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (wire) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(b)
	return nil
}

func (wire) Name() string { return "proto" }
