package feature

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feast"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/rpc"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// Feast speaks the protocol of Feast's feature server, over HTTP and gRPC: its
// SDK, with `online_store: {type: remote}`, reads and writes through it.
//
// Statuses and the shapes of answers are Feast's. So are errors: the body is what
// its SDK makes an exception of, and the status is that of the error's kind.
type Feast struct {
	table   *Table
	ingest  *Ingest // nil where nothing is taken in
	catalog *Catalog
	version string // of this program
	now     func() time.Time

	mu    sync.Mutex
	of    *Compiled
	alone map[*CompiledView]*CompiledSource // of a set, see source
}

// NewFeast makes the edge of a table and, unless it is nil, of an ingest.
func NewFeast(table *Table, ingest *Ingest, catalog *Catalog, version string) *Feast {
	return &Feast{table: table, ingest: ingest, catalog: catalog, version: version, now: time.Now}
}

// Register mounts the HTTP paths.
func (f *Feast) Register(mux *http.ServeMux) {
	route := func(pattern string, handle func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			serve.ErrorsBy(r, func(w http.ResponseWriter, begun bool, err error) { refuseFeast(w, r, begun, err) })
			if err := handle(w, r); err != nil {
				serve.Error(w, r, err)
			}
		})
	}
	route("POST /get-online-features", f.get)
	route("GET /health", f.health)
	if f.ingest == nil {
		return
	}
	route("POST /push", f.push)
	route("POST /write-to-online-store", f.write)
}

// Service is the gRPC form, which only reads.
func (f *Feast) Service() rpc.Service {
	return rpc.Service{Name: feast.Service, File: feast.Descriptor, Methods: map[string]rpc.Method{
		"GetFeastServingInfo": rpc.Unary(func(_ context.Context, _, dst []byte) ([]byte, error) {
			return feast.AppendInfo(dst, f.version), nil
		}),
		"GetOnlineFeatures": rpc.Unary(func(ctx context.Context, message, dst []byte) ([]byte, error) {
			x := feastCalls.Get().(*feastCall)
			defer x.free()
			err := x.request.DecodeProto(message)
			if err == nil {
				err = f.answer(ctx, x)
			}
			if err != nil {
				return nil, err
			}
			return x.response.AppendProto(dst), nil
		}),
	}}
}

// unknown is an error about something that is not defined; class is the exception
// that Feast's SDK makes of it.
type unknown struct {
	error
	class string
}

func (u unknown) Unwrap() error { return u.error }

// unknownAs gives err the class if it is NotFound.
func unknownAs(class string, err error) error {
	if fault.Is(err, fault.NotFound) {
		return unknown{err, class}
	}
	return err
}

const pushSourceUnknown = "PushSourceNotFoundException"

// refuseFeast answers with an error as Feast does: a JSON string that has JSON in it.
func refuseFeast(w http.ResponseWriter, r *http.Request, begun bool, err error) {
	if begun {
		return
	}
	class, status := "FeastError", fault.HTTPStatus(err)
	if u := (unknown{}); errors.As(err, &u) {
		if class = u.class; class == pushSourceUnknown {
			status = http.StatusUnprocessableEntity
		}
	}
	detail, err2 := json.Marshal(struct {
		Module  string `json:"module"`
		Class   string `json:"class"`
		Message string `json:"message"`
	}{"feast.errors", class, fault.Message(err)})
	body, err3 := json.Marshal(string(detail))
	if err := errors.Join(err2, err3); err != nil {
		serve.Failed(r, err)
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", fault.RetryHeader(err))
	}
	sendJSON(w, r, status, body)
}

func sendJSON(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	head := w.Header()
	head["Content-Type"] = jsonType
	head.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		serve.Failed(r, err)
	}
}

var jsonType = []string{"application/json"}

// feastCall is one request for features. Its memory is reused by later ones.
type feastCall struct {
	body     bytes.Buffer
	request  feast.Request
	given    Given
	values   []row.Value // of all that is given
	keys     [][]row.Value
	answers  Answers
	response feast.Response
	buf      []byte
}

var feastCalls = sync.Pool{New: func() any { return &feastCall{given: Given{}} }}

// free gives the memory back, unless it became a lot.
func (x *feastCall) free() {
	const most = 1 << 20 // bytes, or values of 100 bytes each
	if x.body.Cap() > most || cap(x.buf) > most || cap(x.values) > most/100 || x.answers.Rows() > most/100 {
		return
	}
	clear(x.given)
	clear(x.values)
	clear(x.keys)
	x.response.At, x.response.Views = nil, nil
	feastCalls.Put(x)
}

func (f *Feast) get(w http.ResponseWriter, r *http.Request) error {
	x := feastCalls.Get().(*feastCall)
	defer x.free()
	x.body.Reset()
	if _, err := x.body.ReadFrom(r.Body); err != nil {
		return serve.BodyError(err)
	}
	if err := x.request.Decode(x.body.Bytes()); err != nil {
		return err
	}
	if err := f.answer(r.Context(), x); err != nil {
		return err
	}
	x.buf = x.response.AppendJSON(x.buf[:0])
	sendJSON(w, r, http.StatusOK, x.buf)
	return nil
}

// answer makes the response of the request.
func (f *Feast) answer(ctx context.Context, x *feastCall) error {
	defined, err := f.table.Defined(ctx)
	if err != nil {
		return err
	}
	q := &x.request
	var plan *Plan
	if q.Service != "" {
		plan, err = defined.Service(q.Service)
		err = unknownAs("FeatureServiceNotFoundException", err)
	} else {
		plan, err = defined.Features(q.Features, q.FullNames)
		err = unknownAs("FeatureViewNotFoundException", err)
	}
	if err != nil {
		return err
	}
	if err := x.give(defined, plan); err != nil {
		return err
	}
	if err := f.table.Read(ctx, plan, x.given, q.Rows, f.now(), &x.answers); err != nil {
		return err
	}
	x.respond(plan)
	return nil
}

// give reads what the plan needs of the request's columns. Those that it does not need are nothing to it.
func (x *feastCall) give(defined *Compiled, plan *Plan) error {
	q := &x.request
	x.values, x.keys = resize(x.values, (len(plan.Keys)+len(plan.Inputs))*q.Rows), x.keys[:0]
	rest := x.values
	x.response.Names = x.response.Names[:0]
	take := func(name string, t row.Type, c *feast.Column) error {
		values := rest[:q.Rows:q.Rows]
		rest = rest[q.Rows:]
		for i := range values {
			var err error
			if values[i], err = c.Value(i, t); err != nil {
				return err
			}
		}
		x.given[name] = values
		return nil
	}
	for _, k := range plan.Keys {
		c, ok := q.Column(k.Name)
		if !ok {
			c, ok = q.Column(defined.entityOf(k.Name)) // which Feast also takes
		}
		if !ok {
			return invalid("entities has no column %q, which is a key of what is asked for; it has %s", k.Name, names(q.Columns))
		}
		if err := take(k.Name, k.Type, c); err != nil {
			return err
		}
		x.keys = append(x.keys, x.given[k.Name])
		x.response.Names = append(x.response.Names, k.Name)
	}
	for _, f := range plan.Inputs {
		c, ok := q.Column(f.Name)
		if !ok {
			return invalid("entities has no column %q, which an expression needs; it has %s", f.Name, names(q.Columns))
		}
		if err := take(f.Name, f.Type, c); err != nil {
			return err
		}
	}
	return nil
}

// entityOf finds the entity whose only key has a name; "": none.
func (c *Compiled) entityOf(key string) string {
	for i := range c.Entities {
		if e := &c.Entities[i]; len(e.Keys) == 1 && e.Keys[0].Name == key {
			return e.Name
		}
	}
	return ""
}

func names(columns []feast.Column) string {
	list := make([]string, 0, len(columns))
	for _, c := range columns[:min(len(columns), 20)] {
		list = append(list, strconv.Quote(c.Name))
	}
	return strings.Join(list, ", ")
}

// respond sets the response to the answers: the entities' columns come first.
func (x *feastCall) respond(plan *Plan) {
	p := &x.response
	p.Rows = x.request.Rows
	for _, c := range plan.Columns {
		name := c.Name
		if x.request.FullNames {
			name = c.View + "__" + c.Feature
		}
		p.Names = append(p.Names, name)
		if x.request.Versions && !slices.ContainsFunc(p.Views, func(v feast.View) bool { return v.Name == c.View }) {
			p.Views = append(p.Views, feast.View{Name: c.View, Version: c.Version})
		}
	}
	p.At = func(column, i int, c *feast.Cell) {
		if column < len(x.keys) {
			c.Value, c.Status = x.keys[column][i], feast.Present
			return
		}
		a := x.answers.At(column-len(x.keys), i)
		c.Value, c.Status, c.Event = a.Value, feast.Status(a.Status), a.Event
	}
}

// health tells whether definitions are known and the online store answers.
func (f *Feast) health(w http.ResponseWriter, r *http.Request) error {
	if _, err := f.table.Defined(r.Context()); err != nil {
		return fault.Wrap(fault.Unavailable, err, "the feature definitions can't be read")
	}
	if _, err := f.table.online.Read(r.Context(), []string{"health"}, nil); err != nil {
		return fault.Wrap(fault.Unavailable, err, "the online store can't be read")
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// push takes rows of a source.
func (f *Feast) push(w http.ResponseWriter, r *http.Request) error {
	return f.bring(w, r, (*feast.Push).DecodePush, func(ctx context.Context, p *feast.Push) (*CompiledSource, To, error) {
		s, err := f.ingest.source(ctx, p.Name)
		return s, map[feast.To]To{feast.ToOnline: OnlineOnly, feast.ToOffline: LogOnly, feast.ToBoth: Everywhere}[p.To], unknownAs(pushSourceUnknown, err)
	})
}

// write takes rows of one view, that others of the same source do not see.
func (f *Feast) write(w http.ResponseWriter, r *http.Request) error {
	return f.bring(w, r, (*feast.Push).DecodeWrite, func(ctx context.Context, p *feast.Push) (*CompiledSource, To, error) {
		s, err := f.source(ctx, p.Name)
		return s, OnlineOnly, unknownAs("FeatureViewNotFoundException", err)
	})
}

func (f *Feast) bring(w http.ResponseWriter, r *http.Request, decode func(*feast.Push, []byte) error, find func(context.Context, *feast.Push) (*CompiledSource, To, error)) error {
	var body bytes.Buffer
	if _, err := body.ReadFrom(r.Body); err != nil {
		return serve.BodyError(err)
	}
	var p feast.Push
	if err := decode(&p, body.Bytes()); err != nil {
		return err
	}
	s, to, err := find(r.Context(), &p)
	if err != nil {
		return err
	}
	rows, err := f.rows(s, &p)
	if err != nil {
		return err
	}
	result, err := f.ingest.Accept(r.Context(), s, rows, to)
	if err != nil {
		return err
	}
	if result.Accepted == 0 && result.Rejected > 0 {
		first := result.Rejections[0]
		return invalid("all %d rows are rejected; row %d: %s", result.Rejected, first.Index, first.Detail)
	}
	b, err := json.Marshal(result)
	if err != nil {
		return err
	}
	sendJSON(w, r, http.StatusOK, b)
	return nil
}

// source is a view's source as if there were no other view, and nothing in its rows but what the view needs.
func (f *Feast) source(ctx context.Context, view string) (*CompiledSource, error) {
	defined, err := f.table.Defined(ctx)
	if err != nil {
		return nil, err
	}
	v, err := defined.View(view)
	if err != nil {
		// What is known may be some seconds old.
		if err := f.catalog.Reread(ctx); err != nil {
			return nil, err
		}
		if defined, err = f.table.Defined(ctx); err != nil {
			return nil, err
		}
		if v, err = defined.View(view); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of != defined {
		f.of, f.alone = defined, map[*CompiledView]*CompiledSource{}
	}
	s := f.alone[v]
	if s == nil {
		s = v.alone()
		f.alone[v] = s
	}
	return s, nil
}

func (v *CompiledView) alone() *CompiledSource {
	s := *v.From
	source := *s.Source
	source.Fields = slices.Clone(source.Fields)
	for i := range source.Fields {
		if !slices.Contains(v.KeyAt, i) && !slices.Contains(v.FromAt, i) {
			source.Fields[i].Required = false
		}
	}
	s.Source, s.Views = &source, []*CompiledView{v}
	return &s
}

// rows makes rows of a source of the columns that are brought. Columns that it
// does not have are nothing to it; those that its views are made of must be there.
func (f *Feast) rows(s *CompiledSource, p *feast.Push) ([]Row, error) {
	columns := make([]*feast.Column, len(s.Fields))
	for i, field := range s.Fields {
		columns[i], _ = p.Column(field.Name)
		// The SDK has its own names for the times.
		switch {
		case columns[i] != nil:
		case i == s.TimeAt:
			columns[i], _ = p.Column(defaultTime)
		case i == s.Made:
			columns[i], _ = p.Column("created")
		}
	}
	missing := func(at int) error {
		if at < 0 || columns[at] != nil {
			return nil
		}
		return invalid("df has no column %q, which is one of source %q; it has %s", s.Fields[at].Name, s.Name, names(p.Columns))
	}
	if err := missing(s.TimeAt); err != nil {
		return nil, err
	}
	for _, v := range s.Views {
		for _, list := range [][]int{v.KeyAt, v.FromAt} {
			for _, at := range list {
				if err := missing(at); err != nil {
					return nil, err
				}
			}
		}
	}
	now := row.OfTime(f.now())
	rows := make([]Row, p.Rows)
	values := make([]row.Value, p.Rows*len(s.Fields))
	for i := range rows {
		rows[i].Values = values[i*len(s.Fields):][:len(s.Fields):len(s.Fields)]
		for at, c := range columns {
			if c != nil {
				var err error
				if rows[i].Values[at], err = c.Value(i, s.Fields[at].Type); err != nil {
					return nil, err
				}
			}
			if at == s.Made && rows[i].Values[at].Null() {
				rows[i].Values[at] = now
			}
		}
	}
	return rows, nil
}
