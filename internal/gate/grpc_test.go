package gate

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
)

// plain has messages sent as they are.
type plain struct{}

func (plain) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (plain) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (plain) Name() string                       { return "proto" }

// grpcFunction runs a function of grpc-go, that answers every call.
func grpcFunction(t *testing.T, handle grpc.StreamHandler) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.ForceServerCodec(plain{}), grpc.UnknownServiceHandler(handle))
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

func dial(t *testing.T, g *gateway) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(g.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(plain{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// naming is a message whose fields are texts.
func naming(fields ...any) []byte {
	var b []byte
	for i := 0; i < len(fields); i += 2 {
		b = protowire.AppendString(protowire.AppendTag(b, protowire.Number(fields[i].(int)), protowire.BytesType), fields[i+1].(string))
	}
	return b
}

func TestCallsByGRPC(t *testing.T) {
	predict := grpcFunction(t, func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		in, _ := metadata.FromIncomingContext(s.Context())
		deadline, _ := s.Context().Deadline()
		if left := time.Until(deadline); left <= 0 || left > 30*time.Second {
			return status.Errorf(codes.Internal, "the call has %s", left)
		}
		var message []byte
		if err := s.RecvMsg(&message); err != nil {
			return err
		}
		if err := s.SendHeader(metadata.Pairs("first", "1")); err != nil {
			return err
		}
		s.SetTrailer(metadata.Pairs("last", "2", "prediction-rows", "60"))
		answer := []byte(method + " for " + strings.Join(in.Get("pilotlight-model"), ",") + " by " + strings.Join(in.Get("x-request-id"), ","))
		if strings.HasSuffix(method, "ModelConfig") {
			return status.Error(codes.NotFound, "no such model, 100 %")
		}
		return s.SendMsg(&answer)
	})
	g := start(t, map[string]string{"PREDICT_URL": predict, "AUTH": "on"})
	conn := dial(t, g)
	key := g.key(auth.Grant{Scopes: []auth.Scope{"predict/m*", "models:write"}})
	call := func(method string, message []byte, options ...grpc.CallOption) (string, error) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key, "x-request-id", "mine", "pilotlight-model", "x")
		var out []byte
		err := conn.Invoke(ctx, "/inference.GRPCInferenceService/"+method, &message, &out, options...)
		return string(out), err
	}
	var header, trailer metadata.MD
	got, err := call("ModelInfer", naming(1, "m", 2, "1"), grpc.Header(&header), grpc.Trailer(&trailer))
	if want := "/inference.GRPCInferenceService/ModelInfer for m by mine"; err != nil || got != want {
		t.Errorf("got %q %v, want %q", got, err, want)
	}
	if header.Get("first")[0] != "1" || len(trailer.Get("last")) != 1 || trailer.Get("last")[0] != "2" {
		t.Errorf("got %v %v", header, trailer)
	}
	for method, test := range map[string]struct {
		message []byte
		want    string
	}{
		"RepositoryModelLoad": {naming(1, "repository", 2, "m2"), "m2"},
		"ModelReady":          {naming(1, "m3"), "m3"},
		"ModelMetadata":       {naming(2, "1", 1, "m4"), "m4"}, // in another order
		"ModelStatistics":     {nil, ""},
		"ModelInfer":          {append(naming(3, strings.Repeat("x", 2*peekMost)), naming(1, "m")...), ""}, // too far behind
	} {
		if got, err := call(method, test.message); err != nil || !strings.Contains(got, " for "+test.want+" by") {
			t.Errorf("%s: got %q %v, want that the gateway tells %q", method, got, err, test.want)
		}
	}
	if _, err := call("ModelConfig", naming(1, "m")); status.Code(err) != codes.NotFound || status.Convert(err).Message() != "no such model, 100 %" {
		t.Errorf("got %v", err)
	}
	if _, err := call("ModelInfer", naming(1, "m"), grpc.UseCompressor("identity")); err != nil {
		t.Error(err)
	}
	message := naming(1, "m")
	if err := conn.Invoke(t.Context(), "/inference.GRPCInferenceService/ModelInfer", &message, &message); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a key: got %v", err)
	}
	for _, method := range []string{"ServerLive", "ServerReady"} {
		var out []byte
		if err := conn.Invoke(t.Context(), "/inference.GRPCInferenceService/"+method, &[]byte{}, &out); err != nil || string(out) != "\x08\x01" {
			t.Errorf("%s: got %q %v", method, out, err)
		}
	}
	well, err := grpc.NewClient(g.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer well.Close()
	if _, err := healthpb.NewHealthClient(well).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("anybody may ask whether it is well: got %v", err)
	}
}

func TestStreamsByGRPC(t *testing.T) {
	predict := grpcFunction(t, func(_ any, s grpc.ServerStream) error {
		for {
			var message []byte
			err := s.RecvMsg(&message)
			if errors.Is(err, io.EOF) {
				s.SetTrailer(metadata.Pairs("last", "2", "prediction-rows", "60"))
				return nil
			}
			if err != nil {
				return err
			}
			if string(message) == "fail" {
				return status.Error(codes.Aborted, "as you like")
			}
			if err := s.SendMsg(&message); err != nil {
				return err
			}
		}
	})
	g := start(t, map[string]string{"PREDICT_URL": predict, "REQUEST_TIMEOUT": "300ms", "STALL_TIMEOUT": "300ms", "AUTH": "on"})
	conn := dial(t, g)
	key := g.key(auth.Grant{Scopes: []auth.Scope{"predict"}, Limits: auth.Limits{Daily: auth.Quota{Rows: 100}}})
	open := func() grpc.ClientStream {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key)
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/inference.GRPCInferenceService/ModelStreamInfer")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for range 2 {
		s := open()
		large := strings.Repeat("x", 1<<20)
		for _, text := range []string{"one", "two", large, "three"} {
			message, out := []byte(text), []byte(nil)
			if err := s.SendMsg(&message); err != nil {
				t.Fatal(err)
			}
			if err := s.RecvMsg(&out); err != nil || string(out) != text {
				t.Fatalf("got %.100q %v", out, err)
			}
			time.Sleep(150 * time.Millisecond) // in all, more than a request may take
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(new([]byte)); !errors.Is(err, io.EOF) || s.Trailer().Get("last")[0] != "2" {
			t.Errorf("got %v %v", err, s.Trailer())
		}
	}
	time.Sleep(time.Second) // the rows of the trailer are charged
	s := open()
	if err := s.RecvMsg(new([]byte)); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "quota of 100 rows a day") {
		t.Errorf("got %v, want that the quota is used up", err)
	}
	key = g.key(auth.Grant{Scopes: []auth.Scope{"predict"}})
	s = open()
	message := []byte("fail")
	if err := s.SendMsg(&message); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(&message); status.Code(err) != codes.Aborted || status.Convert(err).Message() != "as you like" {
		t.Errorf("got %v", err)
	}
}

func TestAMethodThatCantBeReached(t *testing.T) {
	g := start(t, nil)
	conn := dial(t, g)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	message := naming(1, "m")
	if err := conn.Invoke(ctx, "/inference.GRPCInferenceService/ModelInfer", &message, &message); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "can't be reached") {
		t.Errorf("got %v", err)
	}
}

func FuzzNameIn(f *testing.F) {
	f.Add(naming(1, "m", 2, "1"))
	f.Add(naming(2, "x", 1, "m"))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, b []byte) {
		if name := nameIn(b, 1); len(name) > 200 || name != "" && !strings.Contains(string(b), name) {
			t.Errorf("got %q, which is not in the message", name)
		}
	})
}
