package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/model"
)

// peer is a server that we are compared with.
type peer struct {
	name    string // for -peers, of its folder in .peers, and of its files in peers
	title   string
	pins    []string // packages whose versions are told
	formats []format
}

// pilotlight is what the peers are peers of.
const pilotlight = "pilotlight"

var allPeers = []*peer{
	{pilotlight, "Pilotlight", nil, []format{v2JSON, v2Binary, v2GRPC, v1JSON}},
	{"fastapi", "FastAPI", []string{"fastapi", "uvicorn", "orjson", "onnxruntime"}, []format{ownJSON}},
	{"node", "Node", []string{"onnxruntime-node"}, []format{ownJSON}},
	{"mosec", "mosec", []string{"mosec", "onnxruntime"}, []format{mosecJSON, mosecMsgpack}},
	{"mlserver", "MLServer", []string{"mlserver", "onnxruntime"}, []format{v2JSON, v2GRPC}},
	{"kserve", "KServe", []string{"kserve", "onnxruntime"}, []format{v2JSON, v2Binary, v2GRPC, v1JSON}},
	{"triton", "Triton", []string{"nvidia-pytriton", "onnxruntime"}, []format{v2JSON, v2Binary, v2GRPC}},
}

// choosePeers finds those of the given names, all if there is none; ourselves in any case.
func choosePeers(names string) ([]*peer, error) {
	if names == "" {
		return allPeers, nil
	}
	chosen := allPeers[:1:1]
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(allPeers, func(p *peer) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no peer %q", name)
		}
		if i > 0 {
			chosen = append(chosen, allPeers[i])
		}
	}
	return chosen, nil
}

// missing says why the peer can't be started, or nothing.
func (p *peer) missing(b *bench) string {
	if p.name == pilotlight {
		return ""
	}
	dir := filepath.Join(b.root, ".peers", p.name)
	if _, err := os.Stat(filepath.Join(dir, ".done")); err == nil {
		return ""
	}
	if text, err := os.ReadFile(filepath.Join(dir, ".failed")); err == nil {
		return "it could not be installed: " + lastLine(string(text))
	}
	return "it is not installed: make peers"
}

// versions tells what is installed.
func (p *peer) versions(b *bench) string {
	if p.name == pilotlight {
		return "this commit"
	}
	text, _ := os.ReadFile(filepath.Join(b.root, "test", "bench", "peers", "requirements-"+p.name+".txt"))
	if p.name == "node" {
		text, _ = os.ReadFile(filepath.Join(b.root, "test", "bench", "peers", "package.json"))
	}
	var found []string
	for _, pin := range p.pins {
		if m := regexp.MustCompile(`(?m)^\W*` + regexp.QuoteMeta(pin) + `\W+([\d.]+)`).FindSubmatch(text); m != nil {
			found = append(found, pin+" "+string(m[1]))
		}
	}
	return strings.Join(found, ", ")
}

// launch says how to start the peer with a job's model, on the first core. A
// server of ours finds the model in the bucket.
func (p *peer) launch(b *bench, j *job) launch {
	first := j.requestIn(p.formats[0])
	if p.name == pilotlight {
		return launch{args: []string{b.predict}, env: []string{"BLOB_URL=file://" + b.bucket(j), "PAYLOAD_LOG=off"}, first: &first}
	}
	here, dir := filepath.Join(b.root, "test", "bench", "peers"), filepath.Join(b.root, ".peers", p.name)
	args := []string{filepath.Join(dir, "bin", "python"), filepath.Join(here, p.name+"_server.py")}
	if p.name == "node" {
		args = []string{"node", filepath.Join(here, "node_server.mjs"), dir}
	}
	return launch{
		args: args, env: []string{"MODEL_NAME=" + j.model, "MODEL_PATH=" + j.path, "PYTHONDONTWRITEBYTECODE=1"},
		first: &first, grpc: true,
	}
}

func (b *bench) bucket(j *job) string { return filepath.Join(b.dir, "bucket-"+j.model) }

// startPeer starts a peer with nothing in its caches.
func (b *bench) startPeer(ctx context.Context, p *peer, j *job) (*process, error) {
	l := p.launch(b, j)
	var cache string
	if p.name == pilotlight {
		var err error
		if cache, err = os.MkdirTemp(b.dir, "cache-*"); err != nil {
			return nil, err
		}
		l.env = append(l.env, "MODEL_CACHE_DIR="+cache)
	}
	s, err := b.start(ctx, l)
	if err == nil {
		s.cache = cache
	}
	return s, err
}

// entrant is one server with one format of one job, or a limit.
type entrant struct {
	peer    *peer // nil: a limit
	title   string
	format  string
	server  *process
	request request
	engine  string         // name of the sample that the engine runs alone
	skipped string         // why it was not measured
	loads   map[int][]load // by callers
	loops   []loop
}

var crowds = []int{1, 8, crowd}

// named tells whether it is that peer.
func (e *entrant) named(peer string) bool { return e.peer != nil && e.peer.name == peer }

// contest is one job with all that do it.
type contest struct {
	*job
	all []*entrant
}

// peers measures every server with every job, in turns.
func (b *bench) peers(ctx context.Context) error {
	jobs := allJobs()
	for _, j := range append(jobs, largeJob()) {
		if err := j.open(ctx, b); err != nil {
			return err
		}
	}
	var contests []*contest
	over := &overload{}
	for len(jobs) > 0 {
		n := 1
		for n < len(jobs) && jobs[n].model == jobs[0].model {
			n++
		}
		same, err := b.contest(ctx, jobs[:n], over)
		if err != nil {
			return err
		}
		contests = append(contests, same...)
		jobs = jobs[n:]
	}
	starts, bare, err := b.peerStarts(ctx)
	if err != nil {
		return err
	}
	b.tellPeers(contests)
	b.tellStarts(starts, bare)
	b.tellOverloads(over)
	b.tellTargets(contests, over, starts, bare)
	return nil
}

// contest starts every peer with one model and measures them on the jobs for it.
func (b *bench) contest(ctx context.Context, jobs []*job, over *overload) (contests []*contest, err error) {
	var started []*process
	defer func() {
		for _, p := range started {
			err = errors.Join(err, p.stop())
		}
	}()
	hello, err := b.start(ctx, launch{args: []string{b.self, "child", "hello"}, ready: "/"})
	if err != nil {
		return nil, err
	}
	started = append(started, hello)
	greeting := newRequest("GET", "/", nil, nil)
	greeting.want = []byte("hello")
	for _, j := range jobs {
		contests = append(contests, &contest{job: j, all: []*entrant{
			{title: "Go net/http hello", server: hello, request: greeting},
			{title: "ONNX Runtime alone", engine: j.sample},
		}})
	}
	for _, p := range b.chosen {
		server, why := (*process)(nil), p.missing(b)
		if why == "" {
			progress("%s: start %s", jobs[0].model, p.name)
			if p.name == pilotlight {
				if err := b.fillJob(ctx, jobs[0]); err != nil {
					return nil, err
				}
			}
			if server, err = b.startPeer(ctx, p, jobs[0]); err != nil {
				if p.name == pilotlight || ctx.Err() != nil {
					return nil, err
				}
				progress("%v", err)
				why = "it does not start: " + lastLine(err.Error())
			} else {
				started = append(started, server)
			}
		}
		for _, c := range contests {
			for _, f := range p.formats {
				e := &entrant{peer: p, title: p.title, format: f.name, server: server, skipped: why}
				c.all = append(c.all, e)
				if why == "" {
					e.try(ctx, c.requestIn(f))
				}
			}
			if p.name == pilotlight {
				e, err := b.remembered(ctx, c, p, server)
				if err != nil {
					return nil, err
				}
				c.all = append(c.all, e)
			}
		}
	}

	unpin, err := b.pin(ctx)
	if err != nil {
		return nil, err
	}
	defer unpin()
	for round := range b.rounds {
		for _, c := range contests {
			progress("%s: round %d of %d", c.title, round+1, b.rounds)
			for i := range c.all {
				if err := b.turn(ctx, c.all[(i+round)%len(c.all)]); err != nil {
					return nil, err
				}
			}
		}
	}
	if jobs[0].model == "trees" {
		err = b.overloads(ctx, contests[0], over)
	}
	return contests, err
}

// try asks once, and takes that answer for the one that others must be equal to.
func (e *entrant) try(ctx context.Context, r request) {
	body, err := e.server.answer(ctx, r)
	if err == nil {
		r.want = slices.Clone(body)
		err = r.same(body)
	}
	if err != nil {
		progress("%s, %s: %v", e.title, e.format, err)
		e.skipped = lastLine(err.Error())
	}
	e.request = r
}

// fillJob publishes a job's model into the bucket that our servers start with,
// once more under another name with answers that are remembered.
func (b *bench) fillJob(ctx context.Context, j *job) error {
	p, err := b.startPredict(ctx, []string{"BLOB_URL=file://" + b.bucket(j)})
	if err != nil {
		return err
	}
	settings := model.Settings{Batching: model.Batching{MaxRows: j.rows}}
	err = p.publishWith(ctx, j.model, j.path, settings)
	settings.Cache.TTL = model.Duration(time.Hour)
	return errors.Join(err, p.publishWith(ctx, j.model+cached, j.path, settings), p.stop())
}

const (
	cached    = "-cached"
	fromCache = "V2 JSON, from the cache"
)

// remembered is our server with answers from its cache.
func (b *bench) remembered(ctx context.Context, c *contest, p *peer, server *process) (*entrant, error) {
	e := &entrant{peer: p, title: p.title, format: fromCache, server: server}
	j := *c.job
	j.model += cached
	e.try(ctx, j.requestIn(v2JSON))
	if e.skipped != "" {
		return e, nil
	}
	// The answer's header tells of the cache.
	r := e.request
	_, body, _ := strings.Cut(string(r.wire), "\r\n\r\n")
	ask, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+server.addr+"/v2/models/"+j.model+"/infer", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(ask)
	if err != nil {
		return nil, err
	}
	e.skipped = "the server has no cache yet"
	for name, values := range resp.Header {
		if strings.Contains(strings.ToLower(name), "cache") && strings.Contains(strings.ToLower(strings.Join(values, " ")), "hit") {
			e.skipped = ""
		}
	}
	return e, resp.Body.Close()
}

// turn measures an entrant in one round.
func (b *bench) turn(ctx context.Context, e *entrant) error {
	if e.engine != "" {
		r, err := b.loop(ctx, e.engine)
		if err == nil {
			e.loops = append(e.loops, r)
		}
		return err
	}
	if e.skipped != "" {
		return nil
	}
	for _, n := range crowds {
		l, err := e.server.run(ctx, e.request, n, b.seconds)
		if err != nil && (e.peer == nil || e.peer.name == pilotlight || ctx.Err() != nil) {
			return fmt.Errorf("%s, %s: %w", e.title, e.format, err)
		}
		if err != nil {
			progress("%s, %s: %v", e.title, e.format, err)
			e.skipped = lastLine(err.Error())
			return nil
		}
		if e.loads == nil {
			e.loads = map[int][]load{}
		}
		e.loads[n] = append(e.loads[n], l)
	}
	return nil
}

// start is how a peer came up alone.
type start struct {
	peer    *peer
	small   []time.Duration // to the first answer of the trees
	large   []time.Duration // and of the model of 150 MB
	pss     []int64         // with the trees, after some answers
	skipped string
}

// peerStarts starts every peer alone, in turns, and what makes a session of the
// large model and nothing else: bare is how long that takes.
func (b *bench) peerStarts(ctx context.Context) (all []*start, bare []time.Duration, err error) {
	small, large := allJobs()[0], largeJob()
	if err := errors.Join(small.open(ctx, b), large.open(ctx, b), b.fillJob(ctx, large)); err != nil {
		return nil, nil, err
	}
	for _, p := range b.chosen {
		all = append(all, &start{peer: p, skipped: p.missing(b)})
	}
	for round := range b.rounds {
		progress("starts: round %d of %d", round+1, b.rounds)
		begin := time.Now()
		if _, err := b.once(ctx, launch{args: []string{b.self, "child", "open", large.path}}); err != nil {
			return nil, nil, err
		}
		bare = append(bare, time.Since(begin))
		for _, s := range all {
			if s.skipped != "" {
				continue
			}
			if err := b.peerStart(ctx, s, small, large); err != nil {
				if s.peer.name == pilotlight || ctx.Err() != nil {
					return nil, nil, err
				}
				progress("%v", err)
				s.skipped = lastLine(err.Error())
			}
		}
	}
	return all, bare, nil
}

func (b *bench) peerStart(ctx context.Context, s *start, small, large *job) error {
	p, err := b.startPeer(ctx, s.peer, small)
	if err != nil {
		return err
	}
	s.small = append(s.small, p.ready)
	_, err = p.run(ctx, small.requestIn(s.peer.formats[0]), 1, 200*time.Millisecond)
	pss, err2 := p.pss()
	s.pss = append(s.pss, pss)
	if err := errors.Join(err, err2, p.stop()); err != nil {
		return err
	}
	if p, err = b.startPeer(ctx, s.peer, large); err != nil {
		return err
	}
	s.large = append(s.large, p.ready)
	return p.stop()
}

// overload is what becomes of requests that come at moments of their own.
type overload struct {
	peaks map[*entrant]float64
	cases []*overloadCase
}

type overloadCase struct {
	title string
	e     *entrant
	pace  pace
	loads []load
}

// overloads sends requests at random moments: at half of Triton's peak and at
// half of the own, and at twice the own; and Go's hello, which tells what of it is the machine's.
func (b *bench) overloads(ctx context.Context, c *contest, o *overload) error {
	o.peaks = map[*entrant]float64{}
	triton := 0.0
	for _, e := range c.all {
		if e.engine != "" || e.skipped != "" || e.peer != nil && e.format != e.peer.formats[0].name {
			continue
		}
		o.peaks[e] = median(of(e.loads[crowd], load.perSecond))
		if e.named("triton") {
			triton = o.peaks[e]
		}
	}
	for _, e := range c.all {
		peak, ok := o.peaks[e]
		if !ok || e.peer != nil && !slices.Contains([]string{pilotlight, "triton", "mosec"}, e.peer.name) {
			continue
		}
		steady := func(title string, rate float64) {
			o.cases = append(o.cases, &overloadCase{title: title, e: e, pace: pace{callers: 64, rate: rate, time: b.seconds}})
		}
		if triton > 0 && e.peer != nil {
			steady(halfTriton, triton/2)
		}
		steady(half, peak/2)
		o.cases = append(o.cases, &overloadCase{title: twice, e: e, pace: pace{callers: 512, rate: 2 * peak, lossy: true, time: 2 * b.seconds}})
	}
	for round := range b.rounds {
		progress("requests at moments of their own: round %d of %d", round+1, b.rounds)
		for _, k := range o.cases {
			l, err := k.e.server.drive(ctx, k.e.request, k.pace)
			if err != nil && (k.e.peer == nil || k.e.ours() || ctx.Err() != nil) {
				return fmt.Errorf("%s, %s: %w", k.e.title, k.title, err)
			}
			if err != nil {
				progress("%s, %s: %v", k.e.title, k.title, err)
				continue
			}
			k.loads = append(k.loads, l)
		}
	}
	return nil
}

const (
	halfTriton = "half of Triton's peak"
	half       = "half of its own peak"
	twice      = "twice its own peak"
)

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	line := strings.TrimSpace(lines[len(lines)-1])
	return strings.ReplaceAll(line[:min(len(line), 160)], "|", "\\|")
}
