package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime/pprof"
	"strconv"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// roles are what a child of the bench does: bench child <role> <arguments>.
var roles = map[string]func(ctx context.Context, args []string) error{
	"hello":    hello,
	"echo":     echo,
	"bare":     bare,
	"profile":  profile,
	"engine":   engineLoop,
	"open":     openModel,
	"inside":   inside,
	"features": serveFeatures,
	"hmget":    hmget,
	"land":     land,
	"load":     loadFlights,
	"copy":     copyFlights,

	"collector": takeAll,
}

func child(ctx context.Context, args []string) error {
	if len(args) == 0 || roles[args[0]] == nil {
		return errors.New("bench child: there is no such role")
	}
	return roles[args[0]](ctx, args[1:])
}

// listen serves until the child is told to end.
func listen(ctx context.Context, h http.HandlerFunc) error {
	s := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT"), Handler: h, ReadHeaderTimeout: time.Second}
	go func() {
		<-ctx.Done()
		_ = s.Close() // it was told to
	}()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// hello is the least that a Go server does for a request.
func hello(ctx context.Context, _ []string) error {
	return listen(ctx, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
}

// echo is the least that a Go server does for a request with a large body and
// an answer of the given size.
func echo(ctx context.Context, args []string) error {
	size, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	answer := make([]byte, size)
	bodies := sync.Pool{New: func() any { return new([]byte) }}
	return listen(ctx, func(w http.ResponseWriter, r *http.Request) {
		b := bodies.Get().(*[]byte)
		defer bodies.Put(b)
		if int64(cap(*b)) < r.ContentLength {
			*b = make([]byte, r.ContentLength)
		}
		if _, err := io.ReadFull(r.Body, (*b)[:max(r.ContentLength, 0)]); err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(size))
		_, _ = w.Write(answer)
	})
}

// profile is functions/predict on a bucket in memory, with a CPU profile
// written at its end: the product has no such door.
func profile(ctx context.Context, args []string) error {
	out, err := os.Create(args[0])
	if err != nil {
		return err
	}
	defer out.Close()
	p, err := server(ctx, nil)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return p.Run(ctx)
}

// server wires what functions/predict does.
func server(ctx context.Context, more map[string]string) (*serve.Process, error) {
	var oc onnx.Config
	var pc predict.Config
	f := serve.Function{Name: "predict", Configs: append(pc.Parts(), &oc), Wire: func(ctx context.Context, p *serve.Process) error {
		format, err := onnx.New(oc)
		if err != nil {
			return err
		}
		p.Tel.ColdStart.Begin(telemetry.StageStore)()
		blob, err := memstore.OpenBlob(ctx, nil)
		if err != nil {
			return err
		}
		p.Defer(blob.Close)
		_, err = predict.Open(ctx, p, &pc, predict.Deps{Blob: blob, Formats: []engine.Format{format}})
		return err
	}}
	environ := map[string]string{"PORT": os.Getenv("PORT"), "ORT_LIB": os.Getenv("ORT_LIB"), "MODEL_CACHE_DIR": os.Getenv("MODEL_CACHE_DIR")}
	for k, v := range more {
		environ[k] = v
	}
	return f.Start(ctx, environ)
}

// open makes a session of a file without any server around it.
func open(ctx context.Context, path string) (engine.Session, error) {
	format, err := onnx.New(onnx.Config{Library: os.Getenv("ORT_LIB")})
	if err != nil {
		return nil, err
	}
	artifact, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return format.Open(ctx, artifact, engine.Options{})
}
