package rpc

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bufbuild/protocompile"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/serve/servetest"
)

var update = flag.Bool("update", false, "write the compiled .proto files")

func TestDescriptorsAreThoseOfTheProtos(t *testing.T) {
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{}}
	for name, file := range map[string][]byte{"health": healthFile, "reflection_v1": reflectionV1, "reflection_v1alpha": reflectionV1Alpha} {
		files, err := compiler.Compile(t.Context(), name+".proto")
		if err != nil {
			t.Fatal(err)
		}
		want := protodesc.ToFileDescriptorProto(files[0])
		if *update {
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
			if err == nil {
				err = os.WriteFile(name+".binpb", b, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		var got descriptorpb.FileDescriptorProto
		if err := proto.Unmarshal(file, &got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(&got, want) {
			t.Errorf("%s.binpb is not %s.proto compiled: run the test with -update", name, name)
		}
	}
}

// overTLS has start speak TLS by certificates of this authority; nil: no TLS.
var overTLS *servetest.Authority

// server is a process that serves a service test.Test.
type server struct {
	*grpc.ClientConn
	url string
	end func() error // has it drain, and waits for it
}

func start(t *testing.T, ready func() error, methods map[string]Method, environ ...string) *server {
	t.Helper()
	env := map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR"}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	credential := insecure.NewCredentials()
	if overTLS != nil {
		cert, key := overTLS.Issue(t, nil)
		dir := t.TempDir()
		for name, b := range map[string][]byte{"TLS_CERT": cert, "TLS_KEY": key} {
			env[name] = filepath.Join(dir, name)
			if err := os.WriteFile(env[name], b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		credential = credentials.NewTLS(overTLS.Client(t))
	}
	f := &serve.Function{Name: "test", Wire: func(_ context.Context, p *serve.Process) error {
		Register(p.Mux, ready, Service{Name: "test.Test", File: testFile(t), Methods: methods})
		return nil
	}}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := f.Start(ctx, env)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	conn, err := grpc.NewClient(p.Server().Addr().String(), grpc.WithTransportCredentials(credential))
	if err != nil {
		t.Fatal(err)
	}
	s := &server{ClientConn: conn, url: p.Server().URL(), end: func() error { cancel(); return <-done }}
	t.Cleanup(func() {
		conn.Close()
		cancel()
	})
	return s
}

// testFile declares test.Test.
func testFile(t *testing.T) []byte {
	t.Helper()
	b, err := proto.Marshal(&descriptorpb.FileDescriptorProto{
		Name: proto.String("test.proto"), Package: proto.String("test"), Syntax: proto.String("proto3"),
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Test")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func isReady() error { return nil }

// call sends a string and gets one.
func (s *server) call(t *testing.T, method, text string, options ...grpc.CallOption) (string, error) {
	t.Helper()
	var answer wrapperspb.StringValue
	err := s.Invoke(t.Context(), "/test.Test/"+method, wrapperspb.String(text), &answer, options...)
	return answer.GetValue(), err
}

var echo = Unary(func(_ context.Context, message, dst []byte) ([]byte, error) { return append(dst, message...), nil })

// What grpc-go gets without TLS it gets with it.
func TestTheSameOverTLS(t *testing.T) {
	overTLS = servetest.NewAuthority(t, "ca")
	defer func() { overTLS = nil }()
	for name, test := range map[string]func(*testing.T){
		"streams": TestAStreamFails, "health": TestHealth, "drain": TestDrainEndsStreams, "reflection": TestReflection,
	} {
		t.Run(name, test)
	}
}

func TestFaultsBecomeCodes(t *testing.T) {
	var fail error
	s := start(t, isReady, map[string]Method{
		"Echo": echo,
		"Fail": Unary(func(context.Context, []byte, []byte) ([]byte, error) {
			if fail == nil {
				panic("on purpose")
			}
			return nil, fail
		}),
	})
	for _, test := range []struct {
		err      error
		code     codes.Code
		sentence string
	}{
		{fault.New(fault.Invalid, "50 %% größer\n"), codes.InvalidArgument, "50 % größer\n"},
		{fault.Wrap(fault.NotFound, errors.New("secret"), "no such thing"), codes.NotFound, "no such thing"},
		{fault.New(fault.Conflict, "taken"), codes.Aborted, "taken"},
		{fault.New(fault.Denied, "no"), codes.PermissionDenied, "no"},
		{fault.New(fault.Unauthenticated, "who?"), codes.Unauthenticated, "who?"},
		{fault.New(fault.Overloaded, "too much"), codes.Unavailable, "too much"},
		{fault.New(fault.Unavailable, "away"), codes.Unavailable, "away"},
		{fault.New(fault.Deadline, "late"), codes.DeadlineExceeded, "late"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "the request's time ran out"},
		{context.Canceled, codes.Unavailable, "the work was called off on the way"}, // not by the caller
		{&http.MaxBytesError{Limit: 5}, codes.ResourceExhausted, "the body is larger than the limit of 5 bytes"},
		{unimplemented("not here"), codes.Unimplemented, "not here"},
		{errors.New("secret"), codes.Internal, "internal error"},
		{nil, codes.Internal, "internal error"}, // a panic
	} {
		fail = test.err
		var head, trailer metadata.MD
		_, err := s.call(t, "Fail", "", grpc.Header(&head), grpc.Trailer(&trailer))
		if got := status.Convert(err); got.Code() != test.code || got.Message() != test.sentence {
			t.Errorf("%v: got %s %q, want %s %q", test.err, got.Code(), got.Message(), test.code, test.sentence)
		}
		if got := len(trailer.Get("grpc-retry-pushback-ms")) == 1; got != (test.code == codes.Unavailable) {
			t.Errorf("%v: got trailers %v", test.err, trailer)
		}
		if id := append(head.Get("x-request-id"), trailer.Get("x-request-id")...); len(id) != 1 {
			t.Errorf("%v: got request ids %q", test.err, id)
		}
	}
	if got, err := s.call(t, "Echo", "a"); got != "a" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	resp, err := http.Get(s.url + "/metrics") //nolint:noctx // ends with the server
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{`http_route="/test.Test/Echo"`, `error_type="not_found"`} {
		if !strings.Contains(string(b), label) {
			t.Errorf("no metric has %s", label)
		}
	}
}

// An error after answers stands behind them.
func TestAStreamFails(t *testing.T) {
	s := start(t, isReady, map[string]Method{"Fail": func(c *Call) error {
		c.Stream()
		for range 2 {
			message, err := c.Receive()
			if err != nil {
				return err
			}
			if err := c.Send(append(make([]byte, Prefix), message...)); err != nil {
				return err
			}
		}
		return fault.New(fault.NotFound, "no more")
	}})
	stream, err := s.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Test/Fail")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"a", "b"} {
		var answer wrapperspb.StringValue
		if err := stream.SendMsg(wrapperspb.String(text)); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(&answer); err != nil || answer.GetValue() != text {
			t.Errorf("got %q, %v", answer.GetValue(), err)
		}
	}
	if got := status.Convert(stream.RecvMsg(&wrapperspb.StringValue{})); got.Code() != codes.NotFound || got.Message() != "no more" {
		t.Errorf("got %v", got)
	}
}

func TestHealth(t *testing.T) {
	var waits atomic.Bool
	s := start(t, func() error {
		if waits.Load() {
			return fault.New(fault.Unavailable, "not yet")
		}
		return nil
	}, nil)
	client := healthpb.NewHealthClient(s)
	check := func(service string, want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if got, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service}); err != nil || got.GetStatus() != want {
			t.Errorf("%q: got %v, %v, want %v", service, got, err, want)
		}
	}
	watch := func(service string) func(want healthpb.HealthCheckResponse_ServingStatus) {
		stream, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		return func(want healthpb.HealthCheckResponse_ServingStatus) {
			t.Helper()
			got, err := stream.Recv()
			if want == healthpb.HealthCheckResponse_UNKNOWN && status.Code(err) == codes.Unavailable {
				return
			}
			if err != nil || got.GetStatus() != want {
				t.Errorf("watch %q: got %v, %v, want %v", service, got, err, want)
			}
		}
	}
	const ended = healthpb.HealthCheckResponse_UNKNOWN
	all, unknown := watch(""), watch("no.Such")
	unknown(healthpb.HealthCheckResponse_SERVICE_UNKNOWN)
	all(healthpb.HealthCheckResponse_SERVING)
	for _, service := range []string{"", "test.Test", "grpc.health.v1.Health"} {
		check(service, healthpb.HealthCheckResponse_SERVING)
	}
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "no.Such"}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
	waits.Store(true)
	all(healthpb.HealthCheckResponse_NOT_SERVING)
	check("test.Test", healthpb.HealthCheckResponse_NOT_SERVING)
	waits.Store(false)
	all(healthpb.HealthCheckResponse_SERVING)
	if err := s.end(); err != nil { // does not wait for those who watch
		t.Error(err)
	}
	all(ended)
	unknown(ended)
}

// What a method does with a message is not the slowness of the caller, who had sent
// the beginning of the next one by then.
func TestASlowMethodIsNotASlowCaller(t *testing.T) {
	const stall = 100 * time.Millisecond
	s := start(t, isReady, map[string]Method{"Slow": func(c *Call) error {
		c.Stream()
		for {
			message, err := c.Receive()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			time.Sleep(4 * stall)
			if err := c.Send(append(make([]byte, Prefix), message...)); err != nil {
				return err
			}
		}
	}}, "STALL_TIMEOUT="+stall.String())
	message := []byte{0, 0, 0, 0, 2, 'h', 'i'}
	body, out := io.Pipe()
	go func() {
		_, _ = out.Write(append(message, message[:3]...))
		time.Sleep(4*stall + stall/2)
		_, _ = out.Write(message[3:])
		out.Close()
	}()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/test.Test/Slow", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/grpc")
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || string(b) != string(message)+string(message) || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("got %q %v, %v", b, err, resp.Trailer)
	}
}

// A stream whose caller pauses does not hold up the end of the process; what was
// asked before is answered.
func TestDrainEndsStreams(t *testing.T) {
	asked, answer := make(chan bool), make(chan bool)
	s := start(t, isReady, map[string]Method{"Slow": func(c *Call) error {
		c.Stream()
		for {
			message, err := c.Receive()
			if err != nil {
				return err
			}
			asked <- true
			<-answer
			if err := c.Send(append(make([]byte, Prefix), message...)); err != nil {
				return err
			}
		}
	}})
	open := func() grpc.ClientStream {
		stream, err := s.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Test/Slow")
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.SendMsg(wrapperspb.String("a")); err != nil {
			t.Fatal(err)
		}
		<-asked
		return stream
	}
	pausing := open()
	answer <- true
	if err := pausing.RecvMsg(&wrapperspb.StringValue{}); err != nil {
		t.Fatal(err)
	}
	busy := open()
	ended := make(chan error, 1)
	go func() { ended <- s.end() }()
	unavailable := func(stream grpc.ClientStream) {
		t.Helper()
		if got := status.Convert(stream.RecvMsg(&wrapperspb.StringValue{})); got.Code() != codes.Unavailable || got.Message() != "the server is shutting down" {
			t.Errorf("got %v", got)
		}
	}
	unavailable(pausing)
	answer <- true
	var got wrapperspb.StringValue
	if err := busy.RecvMsg(&got); err != nil || got.GetValue() != "a" {
		t.Errorf("got %v, %v", &got, err)
	}
	unavailable(busy)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestReflection(t *testing.T) {
	s := start(t, isReady, nil)
	v1, err := reflectionv1.NewServerReflectionClient(s).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
		t.Helper()
		r.Host = "x"
		if err := v1.Send(r); err != nil {
			t.Fatal(err)
		}
		got, err := v1.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got.GetValidHost() != "x" || !proto.Equal(got.GetOriginalRequest(), r) {
			t.Errorf("got %v", got)
		}
		return got
	}
	var names []string
	for _, service := range ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	if want := []string{"test.Test", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	for _, symbol := range append(names, "grpc.health.v1.HealthCheckResponse.ServingStatus") {
		got := ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol}})
		for _, b := range got.GetFileDescriptorResponse().GetFileDescriptorProto() {
			var file descriptorpb.FileDescriptorProto
			if err := proto.Unmarshal(b, &file); err != nil {
				t.Fatal(err)
			}
			if _, err := protodesc.NewFile(&file, nil); err != nil || !strings.HasPrefix(symbol, file.GetPackage()+".") {
				t.Errorf("%s: got %s, %v", symbol, file.GetName(), err)
			}
			again := ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: file.GetName()}})
			if !proto.Equal(again.GetFileDescriptorResponse(), got.GetFileDescriptorResponse()) {
				t.Errorf("%s is another file by its name", file.GetName())
			}
			got = nil
		}
		if got != nil {
			t.Errorf("%s: got %v", symbol, got)
		}
	}
	for _, r := range []*reflectionv1.ServerReflectionRequest{
		{},
		{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "no.Such"}},
		{MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: "no.proto"}},
		{MessageRequest: &reflectionv1.ServerReflectionRequest_AllExtensionNumbersOfType{AllExtensionNumbersOfType: "test.Test"}},
		{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingExtension{FileContainingExtension: &reflectionv1.ExtensionRequest{ContainingType: "test.Test"}}},
	} {
		if got := ask(r).GetErrorResponse(); got.GetErrorCode() != int32(codes.NotFound) {
			t.Errorf("%v: got %v", r, got)
		}
	}
	// The older version has the same messages.
	old, err := s.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
	if err != nil {
		t.Fatal(err)
	}
	if err := old.SendMsg(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	var got reflectionv1.ServerReflectionResponse
	if err := old.RecvMsg(&got); err != nil || len(got.GetListServicesResponse().GetService()) != len(names) {
		t.Errorf("got %v, %v", &got, err)
	}
	if err := old.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := old.RecvMsg(&got); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

func TestTimeouts(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "4m": 4 * time.Millisecond, "5u": 5 * time.Microsecond, "6n": 6,
		"00000007n": 7, "0S": 1, "99999999H": 1<<63 - 1, "": 0,
	} {
		if got, err := Timeout(http.Header{"Grpc-Timeout": {text}}); got != want || err != nil {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"1", "S", "-1S", "+1S", "1 S", "000000001S", "1s", "1.5S"} {
		if got, err := Timeout(http.Header{"Grpc-Timeout": {text}}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
	}
}

// FuzzReceive feeds any body to a method: the call ends with a status, and what
// it answers are the messages.
func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x02ab\x00\x00\x00\x00\x00"), "", "")
	f.Add([]byte("\x01\x00\x00\x00\x01a"), "gzip", "1S")
	packed, err := pack("deflate", []byte("abc"))
	if err != nil {
		f.Fatal(err)
	}
	packed[4] = byte(len(packed) - Prefix)
	f.Add(packed, "deflate", "9H")
	f.Add([]byte("\x00\x7f\xff\xff\xff"), "identity", "")
	f.Fuzz(func(t *testing.T, body []byte, coding, wait string) {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/test.Test/Echo", strings.NewReader(string(body)))
		r.ProtoMajor = 2
		r.Header.Set("Content-Type", "application/grpc")
		r.Header.Set("Grpc-Encoding", coding)
		r.Header.Set("Grpc-Timeout", wait)
		w := httptest.NewRecorder()
		var got []string
		handler(func(c *Call) error {
			for {
				message, err := c.Receive()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				got = append(got, string(message))
			}
		})(w, r)
		if w.Code != http.StatusOK { // there is no server here that refuses as gRPC does
			if w.Code != http.StatusBadRequest && w.Code != http.StatusRequestEntityTooLarge {
				t.Errorf("got %d %s", w.Code, w.Body)
			}
			return
		}
		// Without compression, what was read is what came.
		again := ""
		for _, message := range got {
			n := len(message)
			again += string([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + message
		}
		if coding == "" && again != string(body) {
			t.Errorf("got %q of %q", again, body)
		}
	})
}

func BenchmarkUnary(b *testing.B) {
	handle := handler(echo)
	for _, n := range []int{200, 600_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			body := string([]byte{0, 0, byte(n >> 16), byte(n >> 8), byte(n)}) + strings.Repeat("x", n)
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), "POST", "/test.Test/Echo", strings.NewReader(body))
				r.ProtoMajor = 2
				r.Header.Set("Content-Type", "application/grpc")
				handle(httptest.NewRecorder(), r)
			}
		})
	}
}
