package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// dense is a made-up model of layers matrices of width by width.
type dense struct {
	name   string
	layers int
	width  int64
}

var large = dense{"large", 12, 2048} // 201 MB

func (d dense) sample(dir string) (sample, error) {
	path, err := write(dir, d.name, func() onnxwire.Model { return onnxtest.Dense(d.layers, d.width) })
	if err != nil {
		return sample{}, err
	}
	data := d.input().Data
	body := fmt.Appendf(nil, `{"parameters":{"binary_data_output":true},"inputs":[{"name":"X","shape":[1,%d],"datatype":"FP32","parameters":{"binary_data_size":%d}}]}`, d.width, len(data))
	return sample{name: d.name, path: path, body: append(body, data...), header: len(body)}, nil
}

func (d dense) input() tensor.Tensor {
	x := make([]float32, d.width)
	for i := range x {
		x[i] = float32(i%7) / 7
	}
	return tensor.Of("X", []int64{1, d.width}, x)
}

// signature is what a manifest says, which spares the engine from finding out.
func (d dense) signature() *engine.Signature {
	spec := func(name string) []tensor.Spec {
		return []tensor.Spec{{Name: name, Type: tensor.FP32, Shape: []int64{-1, d.width}}}
	}
	return &engine.Signature{Inputs: spec("X"), Outputs: spec("Y")}
}

// opened is what the child says that made a session of the large model and
// nothing else.
type opened struct {
	Session, Run time.Duration
	Answer       []byte
}

// openModel makes a session and runs it once: bench child open <path>.
func openModel(ctx context.Context, args []string) error {
	format, err := onnx.New(onnx.Config{Library: os.Getenv("ORT_LIB")})
	if err != nil {
		return err
	}
	if err := format.Warm(); err != nil { // a server has the library before it is asked
		return err
	}
	artifact, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	begin := time.Now()
	session, err := format.Open(ctx, artifact, engine.Options{Signature: large.signature()})
	if err != nil {
		return err
	}
	o := opened{Session: time.Since(begin)}
	begin = time.Now()
	out, err := session.Run(ctx, []tensor.Tensor{large.input()})
	if err != nil {
		return err
	}
	o.Run, o.Answer = time.Since(begin), out[0].Data
	return json.NewEncoder(os.Stdout).Encode(o)
}

// fetched is one round of a large artifact.
type fetched struct {
	get, stream           time.Duration // all its bytes, by ranged reads side by side and by one read
	session, run          time.Duration // without a server
	first                 time.Duration // the server's first answer
	fetch, create, warmup time.Duration // of first, by the server's metrics
	loaded, peak, idle    int64         // resident memory of the server
}

func (f fetched) limit() time.Duration { return f.get + f.session + f.run }

// artifact measures the way of a large artifact from the S3 server to the first
// answer, beside the parts that it can't do without.
func (b *bench) artifact(ctx context.Context) error {
	if err := b.needS3(ctx); err != nil {
		return err
	}
	s, err := large.sample(b.dir)
	if err != nil {
		return err
	}
	env := b.s3.environ("artifact")
	if err := b.fill(ctx, env, s.name, s.path); err != nil {
		return err
	}
	blob, err := b.s3.open(ctx, "artifact")
	if err != nil {
		return err
	}
	defer blob.Close()
	var object store.Object
	for o, err := range blob.List(ctx, "artifacts/", "") {
		if err != nil {
			return err
		}
		object = o
	}
	var rounds []fetched
	for i := range b.rounds {
		progress("artifact: round %d of %d", i+1, b.rounds)
		f, err := b.artifactRound(ctx, blob, object, env, &s)
		if err != nil {
			return err
		}
		rounds = append(rounds, f)
	}
	b.tellArtifact(object.Size, rounds)
	return nil
}

func (b *bench) artifactRound(ctx context.Context, blob store.Blob, object store.Object, env []string, s *sample) (f fetched, err error) {
	begin := time.Now()
	if err := getRanges(ctx, blob, object, getParts, getAhead); err != nil {
		return f, err
	}
	f.get = time.Since(begin)
	begin = time.Now()
	if err := getRanges(ctx, blob, object, object.Size, 1); err != nil {
		return f, err
	}
	f.stream = time.Since(begin)

	text, err := b.once(ctx, launch{args: []string{b.self, "child", "open", s.path}, core: anyCore})
	if err != nil {
		return f, err
	}
	var o opened
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return f, err
	}
	f.session, f.run = o.Session, o.Run

	p, err := b.startPredict(ctx, env)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	time.Sleep(300 * time.Millisecond) // until ONNX Runtime is there, which the limit leaves out too
	r := s.request()
	begin = time.Now()
	body, err := p.answer(ctx, r)
	if err != nil {
		return f, err
	}
	f.first = time.Since(begin)
	if n := len(body) - len(o.Answer); n < 0 || !slices.Equal(body[n:], o.Answer) {
		return f, errors.New("the first answer is not what the engine gives")
	}
	metrics, err := p.metrics(ctx)
	if err != nil {
		return f, err
	}
	parts := stages(metrics)
	f.fetch, f.create, f.warmup = parts["fetch"], parts["session"], parts["warmup"]
	loaded, err1 := p.memory("VmRSS")
	peak, err2 := p.memory("VmHWM")
	time.Sleep(time.Second)
	idle, err3 := p.memory("VmRSS")
	f.loaded, f.peak, f.idle = loaded, peak, idle
	return f, errors.Join(err1, err2, err3)
}

const (
	getParts = 8 << 20 // as internal/model reads
	getAhead = 6
)

// getRanges reads an object in parts, ahead of them at once, and forgets it.
func getRanges(ctx context.Context, blob store.Blob, object store.Object, part int64, ahead int) error {
	var next atomic.Int64
	var group sync.WaitGroup
	errs := make([]error, ahead)
	for i := range ahead {
		group.Go(func() {
			for errs[i] == nil {
				offset := (next.Add(1) - 1) * part
				if offset >= object.Size {
					return
				}
				errs[i] = getRange(ctx, blob, object.Key, offset, min(part, object.Size-offset))
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func getRange(ctx context.Context, blob store.Blob, key string, offset, length int64) error {
	r, _, err := blob.Get(ctx, key, offset, length)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, r)
	if err == nil && n != length {
		err = fmt.Errorf("got %d bytes of %d", n, length)
	}
	return errors.Join(err, r.Close())
}

func (b *bench) tellArtifact(size int64, rounds []fetched) {
	b.report.section(fmt.Sprintf("A %s artifact from S3 to the first answer", megabytes(size)))
	row := func(name string, f func(fetched) time.Duration) []string {
		d := of(rounds, f)
		return []string{name, millis(slices.Min(d)), millis(median(d)), millis(slices.Max(d))}
	}
	b.report.table([]string{"", "least", "median", "most"}, [][]string{
		row("a: GET, 6 ranges of 8 MiB at once, to nowhere", func(f fetched) time.Duration { return f.get }),
		row("GET by one read, to nowhere", func(f fetched) time.Duration { return f.stream }),
		row("b: session of bytes in memory", func(f fetched) time.Duration { return f.session }),
		row("c: its first run", func(f fetched) time.Duration { return f.run }),
		row("limit: a + b + c", fetched.limit),
		row("**first answer**", func(f fetched) time.Duration { return f.first }),
		row("of that: fetch", func(f fetched) time.Duration { return f.fetch }),
		row("session", func(f fetched) time.Duration { return f.create }),
		row("warm-up", func(f fetched) time.Duration { return f.warmup }),
	})
	throughput := median(of(rounds, func(f fetched) float64 { return float64(size) / 1e6 / f.get.Seconds() }))
	ratios := of(rounds, func(f fetched) float64 { return 100 * float64(f.limit()) / float64(f.first) })
	b.report.add("GET throughput: %.0f MB/s. Limit / first answer within each round: **%s**.\n\n", throughput, spread(ratios, "%.0f %%"))
	bytes := func(f func(fetched) int64) string { return megabytes(median(of(rounds, f))) }
	b.report.add("Resident memory of the server: %s after the first answer, %s after an idle second, %s at most while it loaded.\n",
		bytes(func(f fetched) int64 { return f.loaded }), bytes(func(f fetched) int64 { return f.idle }), bytes(func(f fetched) int64 { return f.peak }))
}
