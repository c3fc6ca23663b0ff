package feedback

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// ReferencePrefix is where the training references of models lie, by model and version.
const ReferencePrefix = "feedback/references/"

func referenceKey(name string, version int) string {
	return fmt.Sprintf("%s%s/%010d", ReferencePrefix, name, version)
}

// PutReference keeps the training reference of a version, in place of the one that there was.
func PutReference(ctx context.Context, blob store.Blob, name string, version int, p *drift.Profile) error {
	_, err := store.WriteJSON(ctx, blob, referenceKey(name, version), p, store.Condition{})
	return err
}

// Drift is how far what a model was asked, given and answered has moved from its training reference.
type Drift struct {
	Model     string          `json:"model"`
	From      time.Time       `json:"from"`
	Until     time.Time       `json:"until"`
	By        string          `json:"by"` // windows or log
	Versions  []Drifted       `json:"versions"`
	Windows   []DriftedWindow `json:"windows,omitempty"`   // those with predictions, in their order
	Elsewhere *Elsewhere      `json:"elsewhere,omitempty"` // where there are none in the time that was asked about
	Damaged   []string        `json:"damaged,omitempty"`   // objects of the bucket that can't be read, and are left out
}

// DriftedWindow is how far it had moved in some of the time.
type DriftedWindow struct {
	From     time.Time `json:"from"`
	Until    time.Time `json:"until"`
	Versions []Drifted `json:"versions"`
}

// Drifted is one version.
type Drifted struct {
	Version int           `json:"version"`
	Missing string        `json:"missing,omitempty"` // why there is no report
	Report  *drift.Report `json:"report,omitempty"`
	// Examples are predictions with values that training had least of, by the columns that have drifted.
	Examples map[string][]event.Example `json:"examples,omitempty"`
}

// Moved compares the predictions of a model and time with the references of its versions, by the log. A column of a reference is the feature of its name or,
// where there is none, the input or the output; other columns are not compared.
func Moved(ctx context.Context, blob store.Blob, q *Question, o drift.Options) (*Drift, error) {
	f, err := frameOf(q)
	if err != nil {
		return nil, err
	}
	j := &judge{blob: blob, q: q, out: &Judgement{}}
	m := newMoving(blob, q, f)
	err = j.predictions(ctx, func(r *payload.Row) error {
		reference, err := m.reference(ctx, int(r.Version))
		if reference == nil || err != nil {
			return err
		}
		for _, s := range m.at(int(r.Version), r.At) {
			s.observe(r, &j.parsed)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	d, err := m.report(ByLog, o)
	if err == nil {
		d.Damaged = j.out.Damaged
	}
	return d, err
}

// moving gathers states of drift, of the windows of a frame and of the whole.
type moving struct {
	blob       store.Blob
	q          *Question
	frame      frame
	references map[int]*drift.Profile // by version; nil: there is none
	states     map[place]*gathered
}

// gathered is the data of some predictions, beside a reference.
type gathered struct {
	state *drift.State
	odd   shown
}

func newMoving(blob store.Blob, q *Question, f frame) *moving {
	return &moving{blob, q, f, map[int]*drift.Profile{}, map[place]*gathered{}}
}

// reference gives that of a version; nil: there is none.
func (m *moving) reference(ctx context.Context, version int) (*drift.Profile, error) {
	p, known := m.references[version]
	if known {
		return p, nil
	}
	p, err := findReference(ctx, m.blob, m.q.Model, version)
	if err == nil {
		m.references[version] = p
	}
	return p, err
}

// at gives the states of a version, which has a reference, that a time belongs to.
func (m *moving) at(version int, micros int64) []*gathered {
	windows := []int64{whole}
	if m.frame.every > 0 {
		windows = append(windows, m.frame.at(micros))
	}
	var of []*gathered
	for _, n := range windows {
		p := place{n, key{version: version}}
		if m.states[p] == nil {
			m.states[p] = &gathered{state: drift.NewState(m.references[version])}
		}
		of = append(of, m.states[p])
	}
	return of
}

// report compares. False alarms are bounded over all windows of all versions together.
func (m *moving) report(by string, o drift.Options) (*Drift, error) {
	d := &Drift{Model: m.q.Model, From: time.UnixMicro(m.frame.from).UTC(), Until: time.UnixMicro(m.frame.until).UTC(), By: by, Versions: []Drifted{}}
	if by == ByLog {
		d.From, d.Until = m.q.From.UTC(), m.q.Until.UTC()
	}
	windows := map[int64][]int{}
	compared := 0
	for p := range m.states {
		windows[p.window] = append(windows[p.window], p.version)
		if p.window != whole {
			compared++
		}
	}
	for _, n := range slices.Sorted(maps.Keys(windows)) {
		options := o
		if n != whole {
			options.Windows = compared
		}
		var all []Drifted
		slices.Sort(windows[n])
		for _, version := range windows[n] {
			own := m.states[place{n, key{version: version}}]
			report, err := drift.Compare(own.state, options)
			if err != nil {
				return nil, err
			}
			v := Drifted{Version: version, Report: report}
			for i := range report.Columns {
				c := &report.Columns[i]
				if odd := own.odd[c.Name].told(); c.Verdict == drift.Drifted && odd != nil {
					if v.Examples == nil {
						v.Examples = map[string][]event.Example{}
					}
					v.Examples[c.Name] = odd
				}
			}
			all = append(all, v)
		}
		if n == whole {
			d.Versions = append(d.Versions, all...)
			continue
		}
		w := DriftedWindow{Versions: all}
		w.From, w.Until = m.frame.window(n)
		d.Windows = append(d.Windows, w)
	}
	for version, reference := range m.references {
		if reference == nil {
			d.Versions = append(d.Versions, Drifted{Version: version, Missing: fmt.Sprintf("there is no training reference of %s:%d; pilotlight drift reference makes one", m.q.Model, version)})
		}
	}
	slices.SortFunc(d.Versions, func(a, b Drifted) int { return cmp.Compare(a.Version, b.Version) })
	return d, nil
}

func readReference(ctx context.Context, blob store.Blob, name string, version int) (*drift.Profile, error) {
	data, _, err := store.ReadAll(ctx, blob, referenceKey(name, version))
	if err != nil {
		return nil, fmt.Errorf("read the reference of %s:%d: %w", name, version, err)
	}
	return drift.Parse(data)
}

// findReference gives nil where there is no reference, or it can't be read: no data is lost for it.
func findReference(ctx context.Context, blob store.Blob, name string, version int) (*drift.Profile, error) {
	p, err := readReference(ctx, blob, name, version)
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Invalid) {
		return nil, nil //nolint:nilnil // there is none
	}
	return p, err
}

// observe counts the columns of the reference in a row of a prediction: the feature of its name, else the input or the output.
func (g *gathered) observe(r *payload.Row, values *parsed) {
	reference := g.state.Profile()
	for at, c := range reference.Columns() {
		v := values.valueOf(c.Name)
		g.state.Add(at, v)
		if surprise := reference.Surprise(at, v); surprise > 0 {
			g.odd.add(c.Name, example{r.ID, r.Row, surprise, r.Sampled})
		}
	}
}

// valueOf is the value of a column as drift has it; an array is missing.
func (p *parsed) valueOf(column string) drift.Value {
	v, ok := p.column(column)
	if ok && v[0] == '"' {
		return drift.Text(v.text())
	}
	if f, number := v.number(); ok && number {
		return drift.Number(f)
	}
	return drift.Value{}
}
