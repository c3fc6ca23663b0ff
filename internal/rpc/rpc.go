// Package rpc serves gRPC on the server's own port, beside everything else.
//
// A call is an HTTP/2 request like any other, told apart by its content type, so
// it gets what every request gets: a deadline, an id, a log line, metrics, a
// bounded body. What gRPC adds is here: messages behind their lengths,
// compressed or not, a status in the trailers, the caller's own deadline, health
// and reflection. The package knows no messages but those of these two; methods
// get and give them encoded. Handlers may be called concurrently, a Call serves
// one goroutine.
//
// Faults become codes by their kinds. What the caller sees is their message.
package rpc

import (
	"context"
	"net/http"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Service is what callers find under one name.
type Service struct {
	Name    string // with its package, as in the path of its methods
	File    []byte // the FileDescriptorProto that declares it
	Methods map[string]Method
}

// Method answers a call: it receives messages until io.EOF and sends others.
// Its error is the call's status.
type Method func(c *Call) error

// Unary is a Method of one message and one answer. The message is valid until
// the answer is made. The answer is put behind dst, and dst taken for memory.
func Unary(f func(ctx context.Context, message, dst []byte) ([]byte, error)) Method {
	return func(c *Call) error {
		message, err := c.ReceiveOnly()
		if err != nil {
			return err
		}
		answer, err := f(c.Context(), message, make([]byte, Prefix, 256))
		if err != nil {
			return err
		}
		return c.Send(answer)
	}
}

// Register adds services to a mux, with reflection of them and the standard
// health service; ready says what the server still waits for, or nil.
func Register(mux *http.ServeMux, ready func() error, services ...Service) {
	services = append(services, Health(ready, services...))
	services = append(services, reflection(services)...)
	for _, s := range services {
		Mount(mux, s)
		mux.HandleFunc("POST /"+s.Name+"/{method}", handler(func(c *Call) error {
			return unimplemented("method %s is not one that this server has of %s", tensor.Clip(c.Request.PathValue("method")), s.Name)
		}))
	}
}

// Mount adds the methods of a service to a mux, and nothing else: for a part of it that others have the rest of.
func Mount(mux *http.ServeMux, s Service) {
	for name, method := range s.Methods {
		mux.HandleFunc("POST /"+s.Name+"/"+name, handler(method))
	}
}

func handler(method Method) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
		switch {
		case kind != "application/grpc" && kind != "application/grpc+proto":
			serve.Error(w, r, fault.New(fault.Invalid, "this path takes gRPC calls, of content type application/grpc or application/grpc+proto"))
			return
		case r.ProtoMajor < 2:
			serve.Error(w, r, fault.New(fault.Invalid, "gRPC needs HTTP/2"))
			return
		}
		serve.ErrorsBy(r, finish)
		c := calls.Get().(*Call)
		defer c.free()
		err := c.open(w, r)
		if err == nil {
			err = method(c)
		}
		if err != nil {
			serve.Error(w, c.Request, err)
			return
		}
		finish(w, c.sent, nil)
	}
}
