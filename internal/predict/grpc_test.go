package predict_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // which callers may ask for
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/limit"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// caller is a client as grpc-go makes it, whose messages are written as JSON.
type caller struct {
	*grpc.ClientConn
	service protoreflect.ServiceDescriptor
}

func dial(t testing.TB, s *predicttest.Server, options ...grpc.DialOption) *caller {
	t.Helper()
	var file descriptorpb.FileDescriptorProto
	if err := proto.Unmarshal(oip.Descriptor, &file); err != nil {
		t.Fatal(err)
	}
	built, err := protodesc.NewFile(&file, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(strings.TrimPrefix(s.URL, "http://"), append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &caller{conn, built.Services().Get(0)}
}

// message makes the request of a method.
func (c *caller) message(t testing.TB, method, text string) *dynamicpb.Message {
	t.Helper()
	m := dynamicpb.NewMessage(c.service.Methods().ByName(protoreflect.Name(method)).Input())
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return m
}

// call gives the answer of a method as JSON with its members sorted.
func (c *caller) call(ctx context.Context, t testing.TB, method, text string, options ...grpc.CallOption) (string, error) {
	t.Helper()
	answer := dynamicpb.NewMessage(c.service.Methods().ByName(protoreflect.Name(method)).Output())
	if err := c.Invoke(ctx, "/"+oip.Service+"/"+method, c.message(t, method, text), answer, options...); err != nil {
		return "", err
	}
	return sorted(t, answer), nil
}

func sorted(t testing.TB, m proto.Message) string {
	t.Helper()
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	text, err = json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// want checks an answer.
func (c *caller) want(t testing.TB, method, text, want string) {
	t.Helper()
	if got, err := c.call(t.Context(), t, method, text); err != nil || got != want {
		t.Errorf("%s %s\ngot  %s, %v\nwant %s", method, text, got, err, want)
	}
}

// wantStatus checks the status of an error.
func wantStatus(t testing.TB, err error, code codes.Code, sentence string) {
	t.Helper()
	if s := status.Convert(err); s.Code() != code || s.Message() != sentence {
		t.Errorf("got  %s %q\nwant %s %q", s.Code(), s.Message(), code, sentence)
	}
}

// rowOf is a request for onnxtest.Simple: a and b sixteen times, in contents.
func rowOf(a, b int) string {
	in := func(name string, v int) string {
		return fmt.Sprintf(`{"name":%q,"datatype":"INT32","shape":[1,16],"contents":{"int_contents":[%s]}}`, name, strings.TrimSuffix(strings.Repeat(fmt.Sprint(v, ","), 16), ","))
	}
	return `{"model_name":"simple","id":"7","inputs":[` + in("INPUT0", a) + "," + in("INPUT1", b) + `],"outputs":[{"name":"OUTPUT1"}]}`
}

// difference is the answer to rowOf.
func difference(v int) string {
	return fmt.Sprintf(`{"id":"7","model_name":"simple","model_version":"1","outputs":[{"contents":{"int_contents":[%s]},"datatype":"INT32","name":"OUTPUT1","shape":["1","16"]}]}`, strings.TrimSuffix(strings.Repeat(fmt.Sprint(v, ","), 16), ","))
}

func TestGRPCMethods(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	c := dial(t, s)
	c.want(t, "ServerLive", `{}`, `{"live":true}`)
	c.want(t, "ServerReady", `{}`, `{"ready":true}`)
	about, err := c.call(t.Context(), t, "ServerMetadata", `{}`)
	if err != nil || !strings.Contains(about, `"name":"pilotlight"`) || !strings.Contains(about, `"model_repository"`) {
		t.Errorf("got %s, %v", about, err)
	}
	c.want(t, "RepositoryIndex", `{}`, `{"models":[{"name":"simple","reason":"not loaded yet: the first request loads it","state":"UNAVAILABLE","version":"1"}]}`)
	c.want(t, "RepositoryIndex", `{"ready":true}`, `{}`)
	c.want(t, "RepositoryModelLoad", `{"model_name":"simple"}`, `{}`)
	c.want(t, "RepositoryIndex", `{"ready":true}`, `{"models":[{"name":"simple","state":"READY","version":"1"}]}`)
	c.want(t, "ModelReady", `{"name":"simple"}`, `{"ready":true}`)
	c.want(t, "ModelInfer", rowOf(5, 3), difference(2))
	c.want(t, "ModelReady", `{"name":"simple","version":"1"}`, `{"ready":true}`)
	c.want(t, "ModelMetadata", `{"name":"simple"}`, `{"inputs":[{"datatype":"INT32","name":"INPUT0","shape":["-1","16"]},{"datatype":"INT32","name":"INPUT1","shape":["-1","16"]}],"name":"simple","outputs":[{"datatype":"INT32","name":"OUTPUT0","shape":["-1","16"]},{"datatype":"INT32","name":"OUTPUT1","shape":["-1","16"]}],"platform":"onnxruntime_onnx","versions":["1"]}`)
	config, err := c.call(t.Context(), t, "ModelConfig", `{"name":"simple"}`)
	if err != nil || !strings.Contains(config, `{"data_type":"TYPE_INT32","dims":["-1","16"],"name":"INPUT1"}`) {
		t.Errorf("got %s, %v", config, err)
	}
	for _, ask := range []string{`{"name":"simple"}`, `{}`} {
		stats, err := c.call(t.Context(), t, "ModelStatistics", ask)
		if err != nil || !strings.Contains(stats, `"execution_count":"1","inference_count":"1"`) {
			t.Errorf("got %s, %v", stats, err)
		}
	}
	c.want(t, "RepositoryModelUnload", `{"model_name":"simple","parameters":{"unload_dependents":{"bool_param":true}}}`, `{}`)
	c.want(t, "ModelReady", `{"name":"simple"}`, `{}`)

	for _, test := range []struct {
		method, ask string
		code        codes.Code
		sentence    string
	}{
		{"ModelReady", `{"name":"nobody"}`, codes.NotFound, `model "nobody" does not exist`},
		{"ModelMetadata", `{"name":"simple","version":"9"}`, codes.NotFound, `model "simple" has no version 9`},
		{"ModelConfig", `{"name":"nobody"}`, codes.NotFound, `model "nobody" does not exist`},
		{"ModelStatistics", `{"name":"nobody"}`, codes.NotFound, `model "nobody" does not exist`},
		{"RepositoryModelUnload", `{"model_name":"nobody"}`, codes.NotFound, `model "nobody" does not exist`},
		{"RepositoryModelLoad", `{"model_name":"nobody"}`, codes.NotFound, `model "nobody" does not exist`},
		{"RepositoryModelLoad", `{"model_name":"simple","parameters":{"config":{"string_param":"{}"}}}`, codes.InvalidArgument, `parameter "config" can't be given to a load: models and their settings come from the registry (POST /admin/v1/models/{model}/versions)`},
		{"ModelInfer", `{"model_name":"simple"}`, codes.InvalidArgument, "inputs is missing or empty, at least one input is required"},
		{"ModelInfer", strings.Replace(rowOf(1, 1), "simple", "nobody", 1), codes.NotFound, `model "nobody" does not exist`},
		{"ModelInfer", strings.Replace(rowOf(1, 1), "INPUT1", "INPUT7", 1), codes.InvalidArgument, `input "INPUT1" is missing; model "simple" expects "INPUT0", "INPUT1"`},
		{"ModelInfer", strings.Replace(rowOf(1, 1), "OUTPUT1", `größer 100%\n`, 1), codes.InvalidArgument, `output "größer 100%\n" is not one that model "simple" gives; it gives ["OUTPUT0" "OUTPUT1"]`},
		{"ModelInfer", strings.Replace(rowOf(1, 1), `"OUTPUT1"`, `"OUTPUT1","parameters":{"classification":{"int64_param":"1"}}`, 1), codes.InvalidArgument, `output "OUTPUT1": the parameter classification is not supported`},
	} {
		_, err := c.call(t.Context(), t, test.method, test.ask)
		t.Run(test.method, func(t *testing.T) { wantStatus(t, err, test.code, test.sentence) })
	}
	for _, method := range []string{"SystemSharedMemoryStatus", "TraceSetting", "LogSettings"} {
		var none descriptorpb.FileOptions
		err := c.Invoke(t.Context(), "/"+oip.Service+"/"+method, &none, &none)
		wantStatus(t, err, codes.Unimplemented, "method "+method+" is not one that this server has of "+oip.Service)
	}
	var none descriptorpb.FileOptions
	if err := c.Invoke(t.Context(), "/no.Such/Method", &none, &none); status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
	c.want(t, "ModelInfer", rowOf(5, 4), difference(1))
}

// The answer has the form of the request.
func TestGRPCForms(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "text", onnxtest.Identity(spec(tensor.Bytes, -1)).Bytes(), model.Settings{})
	s.Push(t, "half", onnxtest.Identity(spec(tensor.FP16, -1)).Bytes(), model.Settings{})
	c := dial(t, s)
	const answer = `"model_version":"1","outputs":[{%s"datatype":"%s","name":"OUTPUT0","shape":["1"]}]%s}`
	c.want(t, "ModelInfer", `{"model_name":"text","inputs":[{"name":"INPUT0","datatype":"BYTES","shape":[1],"contents":{"bytes_contents":["YQ=="]}}]}`,
		`{"model_name":"text",`+fmt.Sprintf(answer, `"contents":{"bytes_contents":["YQ=="]},`, "BYTES", ""))
	c.want(t, "ModelInfer", `{"model_name":"text","inputs":[{"name":"INPUT0","datatype":"BYTES","shape":[1]}],"raw_input_contents":["AQAAAGE="]}`,
		`{"model_name":"text",`+fmt.Sprintf(answer, "", "BYTES", `,"raw_output_contents":["AQAAAGE="]`))
	c.want(t, "ModelInfer", `{"model_name":"half","inputs":[{"name":"INPUT0","datatype":"FP16","shape":[1]}],"raw_input_contents":["ADw="]}`,
		`{"model_name":"half",`+fmt.Sprintf(answer, "", "FP16", `,"raw_output_contents":["ADw="]`))
}

// TestWhatTheGatewayGoesBy: it reads the name of a model in a message's beginning, and how many rows were answered in the header.
func TestWhatTheGatewayGoesBy(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	c := dial(t, s)
	ask := strings.Replace(rowOf(5, 3), `"id"`, `"model_version":"1","id"`, 1)
	as := func(name string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), strings.ToLower(auth.ModelHeader), name)
	}
	var header metadata.MD
	if _, err := c.call(as("simple"), t, "ModelInfer", ask, grpc.Header(&header)); err != nil || len(header.Get(limit.RowsHeader)) != 1 || header.Get(limit.RowsHeader)[0] != "1" {
		t.Errorf("got %v, %v", header, err)
	}
	_, err := c.call(as("cheap"), t, "ModelInfer", ask)
	wantStatus(t, err, codes.InvalidArgument, `the message names the model "simple", and another one before`)
	stream := openStream(t.Context(), t, c)
	for i := range 3 {
		stream.send(rowOf(i, 0))
		stream.receive()
	}
	stream.end()
	if err := stream.RecvMsg(stream.answer()); !errors.Is(err, io.EOF) || len(stream.Trailer().Get(limit.RowsHeader)) != 1 || stream.Trailer().Get(limit.RowsHeader)[0] != "3" {
		t.Errorf("got %v %v", err, stream.Trailer())
	}
}

func TestGRPCStream(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	c := dial(t, s)
	stream := openStream(t.Context(), t, c)
	for _, test := range []struct{ ask, want string }{
		{rowOf(5, 3), `{"infer_response":` + difference(2) + `}`},
		{strings.Replace(rowOf(5, 3), "simple", "nobody", 1), `{"error_message":"model \"nobody\" does not exist","infer_response":{"id":"7","model_name":"nobody"}}`},
		{`{"id":"8"}`, `{"error_message":"inputs is missing or empty, at least one input is required","infer_response":{"id":"8"}}`},
		{rowOf(5, 4), `{"infer_response":` + difference(1) + `}`},
	} {
		stream.send(test.ask)
		if got := stream.receive(); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
	for i := range 100 { // all before the first answer is read
		stream.send(rowOf(i, 0))
	}
	stream.end()
	for i := range 100 {
		if got, want := stream.receive(), `{"infer_response":`+difference(i)+`}`; got != want {
			t.Errorf("answer %d is %s", i, got)
		}
	}
	if err := stream.RecvMsg(stream.answer()); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end", err)
	}
}

// inferStream is a ModelStreamInfer.
type inferStream struct {
	grpc.ClientStream
	t testing.TB
	c *caller
}

func openStream(ctx context.Context, t testing.TB, c *caller) inferStream {
	t.Helper()
	s, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+oip.Service+"/ModelStreamInfer")
	if err != nil {
		t.Fatal(err)
	}
	return inferStream{s, t, c}
}

func (s inferStream) send(text string) {
	s.t.Helper()
	if err := s.SendMsg(s.c.message(s.t, "ModelStreamInfer", text)); err != nil {
		s.t.Fatal(err)
	}
}

func (s inferStream) end() {
	if err := s.CloseSend(); err != nil {
		s.t.Fatal(err)
	}
}

func (s inferStream) answer() *dynamicpb.Message {
	return dynamicpb.NewMessage(s.c.service.Methods().ByName("ModelStreamInfer").Output())
}

func (s inferStream) receive() string {
	s.t.Helper()
	m := s.answer()
	if err := s.RecvMsg(m); err != nil {
		s.t.Fatal(err)
	}
	return sorted(s.t, m)
}

// A stream may pause, but not for ever; and not while a message is on its way.
func TestGRPCStreamsThatStop(t *testing.T) {
	s := predicttest.Start(t, nil, map[string]string{"IDLE_TIMEOUT": "500ms", "STALL_TIMEOUT": "300ms"})
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	stream := openStream(t.Context(), t, dial(t, s))
	for range 3 {
		stream.send(rowOf(1, 1))
		stream.receive()
		time.Sleep(350 * time.Millisecond) // more than a body may pause for
	}
	wantStatus(t, stream.RecvMsg(stream.answer()), codes.DeadlineExceeded, "no message came for 500ms")

	in, out := io.Pipe()
	go func() { _, _ = out.Write([]byte{0, 0, 0, 1, 0, 1, 2}) }()
	code, message := post(t, s, "/"+oip.Service+"/ModelStreamInfer", in)
	if code != "4" || message != "the body came too slowly: at least 16KiB a second is expected" {
		t.Errorf("got %s %q", code, message)
	}
	out.Close()
}

// http2Transport speaks HTTP/2 without TLS from the start.
func http2Transport() *http.Transport {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	return transport
}

// post sends bytes as a gRPC call and gives its status.
func post(t testing.TB, s *predicttest.Server, path string, body io.Reader, headers ...string) (code, message string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/grpc")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	transport := http2Transport()
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || kind != "application/grpc" {
		t.Errorf("got %d %s", resp.StatusCode, kind)
	}
	head := resp.Header
	if head.Get("Grpc-Status") == "" {
		head = resp.Trailer
	}
	return head.Get("Grpc-Status"), head.Get("Grpc-Message")
}

func TestGRPCFraming(t *testing.T) {
	s := predicttest.Start(t, nil, map[string]string{"MAX_BODY": "64KiB"})
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	const live, invalid = "/" + oip.Service + "/ServerLive", "3"
	for _, test := range []struct {
		name, path, body string
		headers          []string
		code, message    string
	}{
		{"empty message", live, "\x00\x00\x00\x00\x00", nil, "0", ""},
		{"a message that is not read", live, "\x00\x00\x00\x00\x02ab", nil, "0", ""},
		{"no message", live, "", nil, invalid, "the call has no message, this method takes one"},
		{"two messages", live, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", nil, invalid, "the call has more than one message, this method takes one"},
		{"half a prefix", live, "\x00\x00\x00", nil, invalid, "the body could not be read to its end"},
		{"half a message", live, "\x00\x00\x00\x00\x02a", nil, invalid, "the body could not be read to its end"},
		{"too large by its word", live, "\x00\xff\xff\xff\xff", nil, "8", "the body is larger than the limit of 65536 bytes"},
		{"too large", live, "\x00\x00\x01\x00\x00" + strings.Repeat("x", 1<<16), nil, "8", "the body is larger than the limit of 65536 bytes"},
		{"unknown flag", live, "\x02\x00\x00\x00\x00", nil, invalid, "the byte before a message's length is 2, expected 0 or 1"},
		{"compressed somehow", live, "\x01\x00\x00\x00\x00", nil, invalid, "the message is compressed, but the call has no grpc-encoding that tells how"},
		{"not gzip", live, "\x01\x00\x00\x00\x01x", []string{"Grpc-Encoding: gzip"}, invalid, "the message is not valid gzip, as its grpc-encoding says"},
		{"not deflate", live, "\x01\x00\x00\x00\x01x", []string{"Grpc-Encoding: deflate"}, invalid, "the message is not valid deflate, as its grpc-encoding says"},
		{"unknown coding", live, "\x00\x00\x00\x00\x00", []string{"Grpc-Encoding: zstd"}, "12", `grpc-encoding "zstd" is not one of gzip, deflate, identity`},
		{"bad timeout", live, "\x00\x00\x00\x00\x00", []string{"Grpc-Timeout: 1s"}, invalid, `grpc-timeout is "1s", expected up to eight digits and one of H, M, S, m, u, n`},
		{"bad timeout", live, "\x00\x00\x00\x00\x00", []string{"Grpc-Timeout: 123456789S"}, invalid, `grpc-timeout is "123456789S", expected up to eight digits and one of H, M, S, m, u, n`},
		{"bad timeout", live, "\x00\x00\x00\x00\x00", []string{"Grpc-Timeout: S"}, invalid, `grpc-timeout is "S", expected up to eight digits and one of H, M, S, m, u, n`},
		{"longest timeout", live, "\x00\x00\x00\x00\x00", []string{"Grpc-Timeout: 99999999H"}, "0", ""},
		{"no protobuf", "/" + oip.Service + "/ModelReady", "\x00\x00\x00\x00\x01x", nil, invalid, "the message is not valid protobuf"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, message := post(t, s, test.path, strings.NewReader(test.body), test.headers...)
			if code != test.code || message != test.message {
				t.Errorf("got  %s %q\nwant %s %q", code, message, test.code, test.message)
			}
		})
	}
	a := s.Do(t, "POST", live, "{}", "Content-Type: application/json")
	wantError(t, a, 400, "this path takes gRPC calls, of content type application/grpc or application/grpc+proto")
	a = s.Do(t, "POST", live, "\x00\x00\x00\x00\x00", "Content-Type: application/grpc")
	wantError(t, a, 400, "gRPC needs HTTP/2")
}

func TestGRPCCompression(t *testing.T) {
	s := predicttest.Start(t, nil, map[string]string{"MAX_BODY": "1MiB"})
	s.Push(t, "text", onnxtest.Identity(spec(tensor.Bytes, -1)).Bytes(), model.Settings{})
	c := dial(t, s)
	ask := func(n int) string {
		return fmt.Sprintf(`{"model_name":"text","inputs":[{"name":"INPUT0","datatype":"BYTES","shape":[1],"contents":{"bytes_contents":["%s"]}}]}`, strings.Repeat("YWFh", n))
	}
	for _, n := range []int{1, 100_000} {
		got, err := c.call(t.Context(), t, "ModelInfer", ask(n), grpc.UseCompressor("gzip"))
		if err != nil || !strings.Contains(got, strings.Repeat("YWFh", n)) {
			t.Errorf("got %.200s, %v", got, err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := c.call(t.Context(), t, "ModelInfer", ask(1<<20), grpc.UseCompressor("gzip"))
	runtime.ReadMemStats(&after)
	wantStatus(t, err, codes.ResourceExhausted, "the body is larger than the limit of 1048576 bytes")
	// The message of the client is three times over in there.
	if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
		t.Errorf("it took %d bytes of memory", got)
	}
	packed := pack(t, "deflate", "\x0a\x04text")
	code, message := post(t, s, "/"+oip.Service+"/ModelReady", strings.NewReader("\x01\x00\x00\x00"+string(rune(len(packed)))+packed), "Grpc-Encoding: deflate")
	if code != "0" {
		t.Errorf("got %s %q", code, message)
	}
}

// Messages of the limit are answered, in one frame or many, on memory that was used before.
func TestGRPCMessageLimit(t *testing.T) {
	s := predicttest.Start(t, nil, map[string]string{"MAX_BODY": "3MiB"})
	s.Push(t, "x", onnxtest.Identity(spec(tensor.FP32, -1)).Bytes(), model.Settings{})
	c := dial(t, s, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8<<20)))
	ask := func(n int) (string, error) {
		m := c.message(t, "ModelInfer", fmt.Sprintf(`{"model_name":"x","inputs":[{"name":"INPUT0","datatype":"FP32","shape":[%d]}]}`, n))
		raw := make([]float32, n)
		for i := range raw {
			raw[i] = float32(i)
		}
		field := m.Descriptor().Fields().ByName("raw_input_contents")
		m.Mutable(field).List().Append(protoreflect.ValueOfBytes(tensor.Raw(raw)))
		answer := dynamicpb.NewMessage(c.service.Methods().ByName("ModelInfer").Output())
		err := c.Invoke(t.Context(), "/"+oip.Service+"/ModelInfer", m, answer)
		if err != nil {
			return "", err
		}
		got := answer.Get(answer.Descriptor().Fields().ByName("raw_output_contents")).List().Get(0).Bytes()
		if !bytes.Equal(got, tensor.Raw(raw)) {
			t.Errorf("%d floats came back changed", n)
		}
		return "", nil
	}
	for _, n := range []int{1, 1000, 1017, 1024, 4096, 700_000, 3, 786_000} {
		if _, err := ask(n); err != nil {
			t.Errorf("%d floats: %v", n, err)
		}
	}
	_, err := ask(786_500)
	wantStatus(t, err, codes.ResourceExhausted, "the body is larger than the limit of 3145728 bytes")

	// In a stream the limit is for each message, not for all of them.
	stream := openStream(t.Context(), t, c)
	for range 3 {
		stream.send(fmt.Sprintf(`{"model_name":"x","inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"contents":{"fp32_contents":[1]}}],"parameters":{"x":{"string_param":"%s"}}}`, strings.Repeat("x", 2<<20)))
		stream.receive()
	}
	stream.send(fmt.Sprintf(`{"id":"%s"}`, strings.Repeat("x", 3<<20)))
	wantStatus(t, stream.RecvMsg(stream.answer()), codes.ResourceExhausted, "the body is larger than the limit of 3145728 bytes")
}

// The deadline that a caller gives ends its request here as well.
func TestGRPCDeadline(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "slow", onnxtest.Slow().Bytes(), model.Settings{})
	body := endlessCall()
	for _, wait := range []string{"50m", "1n", "0n"} {
		code, message := post(t, s, "/"+oip.Service+"/ModelInfer", strings.NewReader(body), "Grpc-Timeout: "+wait)
		if code != "4" || message == "" {
			t.Errorf("%s: got %s %q", wait, code, message)
		}
	}
	eventually(t, "no request is under way", func() bool { return activeRequests(t, s) == 0 })
}

// endlessCall is the body of a call that runs for ever.
func endlessCall() string {
	name := func(n byte, text string) string { return string([]byte{n, byte(len(text))}) + text }
	x := name(0x0a, "X") + name(0x12, "FP32") + "\x1a\x04\x80\x02\x80\x02"
	times := name(0x0a, "TIMES") + name(0x12, "INT64")
	m := name(0x0a, "slow") + name(0x2a, x) + name(0x2a, times) + "\x3a\x80\x80\x10" + strings.Repeat("\x00", 256*256*4) + name(0x3a, le(int64(1)<<40))
	n := len(m)
	return string([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + m
}

// Callers that leave, of calls and of streams, leave nothing behind.
func TestGRPCCallersGoAway(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "slow", onnxtest.Slow().Bytes(), model.Settings{})
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	transport := http2Transport()
	defer transport.CloseIdleConnections()
	leave := func(path, body string) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		in, out := io.Pipe()
		go func() { _, _ = io.WriteString(out, body) }()
		r, err := http.NewRequestWithContext(ctx, "POST", s.URL+path, in)
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Content-Type", "application/grpc")
		resp, err := transport.RoundTrip(r)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		if err == nil {
			t.Errorf("%s ended by itself", path)
		}
		out.Close()
		in.Close()
	}
	endless := endlessCall()
	all := func() {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for _, body := range []string{"", "\x00\x00", "\x00\x00\x00\x00\x09abc", endless, endless[:1000]} {
					leave("/"+oip.Service+"/ModelInfer", body)
					leave("/"+oip.Service+"/ModelStreamInfer", body)
				}
				leave("/grpc.health.v1.Health/Watch", "\x00\x00\x00\x00\x00")
				leave("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "")
			})
		}
		wg.Wait()
		transport.CloseIdleConnections()
	}
	all() // what stays for good
	eventually(t, "no request is under way", func() bool { return activeRequests(t, s) == 0 })
	before := runtime.NumGoroutine()
	all()
	eventually(t, fmt.Sprintf("%d goroutines are left", before), func() bool {
		transport.CloseIdleConnections()
		return runtime.NumGoroutine() <= before
	})
	c := dial(t, s)
	c.want(t, "ModelInfer", rowOf(5, 3), difference(2))
}

// REST and gRPC share a port, and even a connection.
func TestGRPCBesideREST(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	c := dial(t, s)
	transport := http2Transport()
	defer transport.CloseIdleConnections()
	one := &http.Client{Transport: transport}
	message, err := proto.Marshal(c.message(t, "ModelInfer", rowOf(5, 3)))
	if err != nil {
		t.Fatal(err)
	}
	n := len(message)
	framed := string([]byte{0, 0, 0, byte(n >> 8), byte(n)}) + string(message)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 50 {
				switch (w + i) % 4 {
				case 0:
					c.want(t, "ModelInfer", rowOf(i, w), difference(i-w))
				case 1:
					if a := s.Do(t, "POST", "/v2/models/simple/infer", simple(1)); a.Status != 200 {
						t.Errorf("got %d %s", a.Status, a.Body)
					}
				default:
					path, body, kind := "/v2/models/simple/infer", simple(1), "application/json"
					if i%2 == 0 {
						path, body, kind = "/"+oip.Service+"/ModelInfer", framed, "application/grpc"
					}
					resp, err := one.Post(s.URL+path, kind, strings.NewReader(body)) //nolint:noctx // ends with the server
					if err != nil {
						t.Error(err)
						return
					}
					b, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if got := resp.Header.Get("Content-Type"); err != nil || got != kind || resp.StatusCode != 200 {
						t.Errorf("got %d %s %q, %v", resp.StatusCode, got, b, err)
					}
					if kind == "application/grpc" && resp.Trailer.Get("Grpc-Status") != "0" {
						t.Errorf("got trailers %v", resp.Trailer)
					}
				}
			}
		})
	}
	wg.Wait()
}
