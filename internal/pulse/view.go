package pulse

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// View adds up what instances count.
type View struct {
	own    *Board // whose counters need not be read; nil: there is none here
	others *store.Recent[sums]
	now    func() time.Time
}

// NewView makes a view of what is written in a KV (nil: nothing is) and of a board here (nil: there is none). It must be closed.
func NewView(kv store.KV, own *Board) *View {
	v := &View{own: own, now: time.Now}
	if kv != nil {
		v.others = store.NewRecent(func(ctx context.Context) (sums, error) { return readAll(ctx, kv, own) })
	}
	return v
}

// Close waits for what it does on its own.
func (v *View) Close() error {
	if v.others == nil {
		return nil
	}
	return v.others.Close()
}

// sums is what versions did, by slot.
type sums map[named]course

type course map[int64]*tally

func (s sums) add(of named, p *packed) {
	c := s[of]
	if c == nil {
		c = course{}
		s[of] = c
	}
	t := c[p.slot]
	if t == nil {
		t = &tally{}
		c[p.slot] = t
	}
	t.failures += uint64(p.failures)
	for _, b := range p.bins {
		t.bins[b.bin] += uint64(b.n)
	}
}

// written is the course as a record has it.
func (c course) written() (out [][]int64) {
	for slot, t := range c {
		line := []int64{slot, int64(t.failures)}
		for i, n := range t.bins {
			if n > 0 {
				line = append(line, int64(i), int64(n))
			}
		}
		out = append(out, line)
	}
	slices.SortFunc(out, func(a, b []int64) int { return cmp.Compare(a[0], b[0]) })
	return out
}

// readMost is how many instances are read at once.
const readMost = 16

// readAll adds up what instances have written, but for that of a board.
func readAll(ctx context.Context, kv store.KV, but *Board) (sums, error) {
	all, _, err := readInstances(ctx, kv)
	if err != nil {
		return nil, err
	}
	var ids []string
	for id := range all {
		if but == nil || id != but.id {
			ids = append(ids, id)
		}
	}
	records := make([]record, len(ids))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readMost)
	for i, id := range ids {
		group.Go(func() error {
			item, err := kv.Get(ctx, instanceKey(id))
			if fault.Is(err, fault.NotFound) {
				return nil // it has been still for minutes
			}
			if err != nil {
				return fmt.Errorf("read what models do: %w", err)
			}
			if json.Unmarshal(item.Value, &records[i]) != nil {
				records[i] = record{} // it is damaged; the next is not
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	out := sums{}
	for _, r := range records {
		for _, v := range r.Versions {
			for _, line := range v.Slots {
				if p, ok := unwritten(line); ok {
					out.add(named{v.Model, v.Version}, &p)
				}
			}
		}
	}
	return out, nil
}

// unwritten reads a slot of a record.
func unwritten(line []int64) (p packed, ok bool) {
	if len(line) < 2 || len(line)%2 != 0 {
		return p, false
	}
	for _, n := range line {
		if n < 0 || n > math.MaxUint32 {
			return p, false
		}
	}
	p = packed{slot: line[0], failures: uint32(line[1])}
	for pair := range slices.Chunk(line[2:], 2) {
		if pair[0] >= bins {
			return p, false
		}
		p.bins = append(p.bins, packedBin{uint8(pair[0]), uint32(pair[1])})
	}
	return p, true
}

// Live is what models do right now.
type Live struct {
	At     time.Time `json:"at"`      // the end of the last slot
	Every  float64   `json:"every_s"` // how long slots are, in seconds
	Models []Beat    `json:"models"`  // by their rate, and how many requests they had before
	Total  Course    `json:"total"`   // of all versions, also those that are not among Models
	Away   string    `json:"away,omitempty"`
}

// Beat is what a version does.
type Beat struct {
	Model   string `json:"model"`
	Version int    `json:"version"`
	Course
}

// Course is what happened slot by slot, the oldest first.
type Course struct {
	Requests []uint64  `json:"requests"` // those that failed are among them
	Failures []uint64  `json:"failures"`
	P50      []float64 `json:"p50_us"` // that answers took, in microseconds; 0: there were none
	P99      []float64 `json:"p99_us"`
	Rate     float64   `json:"rate"` // requests a second, over the last ten seconds
}

// rateSlots are those that a rate is told of.
const rateSlots = 5

// othersLate is how long after a slot's end others' records of it are here: they write it soon after, and are read once a second.
const othersLate = 2 * time.Second

// Now tells what models do: those of a name ("": all), limit of the busiest at most.
func (v *View) Now(ctx context.Context, model string, limit int) *Live {
	live := &Live{Every: Every.Seconds(), Models: []Beat{}}
	now, late := v.now(), time.Duration(0)
	var others sums
	if v.others != nil {
		late = othersLate
		var err error
		if others, _, err = v.others.Get(ctx); err != nil {
			live.Away = "what other instances do can't be seen: " + fault.Message(err)
		}
	}
	last := slotOf(now.Add(-late)) - 1
	live.At = endOf(last).UTC()
	own := sums{}
	if v.own != nil {
		v.own.add(own, last-Slots+1)
	}
	courses := map[named][]course{}
	var total []course
	for _, from := range []sums{others, own} {
		for of, c := range from {
			if model == "" || of.model == model {
				courses[of] = append(courses[of], c)
				total = append(total, c)
			}
		}
	}
	live.Total = told(last, total)
	for of, c := range courses {
		if b := (Beat{of.model, of.version, told(last, c)}); of.model != "" && sum(b.Requests) > 0 {
			live.Models = append(live.Models, b)
		}
	}
	slices.SortFunc(live.Models, func(a, b Beat) int {
		return cmp.Or(cmp.Compare(b.Rate, a.Rate), cmp.Compare(sum(b.Requests), sum(a.Requests)), cmp.Compare(a.Model, b.Model), cmp.Compare(a.Version, b.Version))
	})
	live.Models = live.Models[:min(limit, len(live.Models))]
	return live
}

// add adds what the board's counters have from a slot on.
func (b *Board) add(all sums, first int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for of, c := range b.counters {
		for _, p := range c.since(first) {
			all.add(of, &p)
		}
	}
}

func sum(all []uint64) (n uint64) {
	for _, v := range all {
		n += v
	}
	return n
}

// told adds up courses over the slots up to the last.
func told(last int64, all []course) Course {
	out := Course{Requests: make([]uint64, Slots), Failures: make([]uint64, Slots), P50: make([]float64, Slots), P99: make([]float64, Slots)}
	for i := range Slots {
		var t tally
		for _, c := range all {
			t.add(c[last-Slots+1+int64(i)])
		}
		out.Failures[i] = t.failures
		out.Requests[i] = t.failures + t.answers()
		out.P50[i], out.P99[i] = math.Round(t.quantile(.5)), math.Round(t.quantile(.99))
	}
	out.Rate = float64(sum(out.Requests[Slots-rateSlots:])) / (rateSlots * Every.Seconds())
	return out
}

// How many versions are told of.
const (
	limitUsual = 20
	limitMost  = 200
)

// Register mounts
//
//	GET /admin/v1/live   Live, by the query's model and limit
func (v *View) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /admin/v1/live", func(w http.ResponseWriter, r *http.Request) {
		q, limit := r.URL.Query(), limitUsual
		if s := q.Get("limit"); s != "" {
			n, err := strconv.Atoi(s)
			if err != nil || n < 1 || n > limitMost {
				serve.Error(w, r, fault.New(fault.Invalid, "limit is %.20q, expected 1 to %d", s, limitMost))
				return
			}
			limit = n
		}
		if err := serve.WriteJSON(w, http.StatusOK, v.Now(r.Context(), q.Get("model"), limit)); err != nil {
			serve.Error(w, r, err)
		}
	})
}
