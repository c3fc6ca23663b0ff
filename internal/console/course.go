package console

import (
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/chart"
	"github.com/pilotlight-ml/pilotlight/internal/course"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// What is told over time. The API counts it from the logs of that time, which may take seconds: pages show it as pictures that come
// by themselves.
const (
	quality = "quality"
	drift   = "drift"
)

// span is how much of the time is looked at.
type span struct {
	Name  string
	Days  int // 0: all
	Every time.Duration
}

const day = 24 * time.Hour

// spans are those that a form offers; the windows are about 15 to 60.
var spans = []span{{"7d", 7, 12 * time.Hour}, {"30d", 30, day}, {"90d", 90, 3 * day}, {"all", 0, 7 * day}}

// windowsMost is about how many windows "all" may have; else they are longer.
const windowsMost = 100

// spanForm says which part of the time a page shows.
type spanForm struct {
	Model string
	Span  span
	Until string // the last day; "": that of the newest prediction
	until time.Time
}

// spanOf reads the form.
func spanOf(q *Query) (*spanForm, error) {
	f := &spanForm{Model: q.PathValue("model"), Span: spans[2], Until: q.FormValue("until")}
	if s := q.FormValue("span"); s != "" {
		at := slices.IndexFunc(spans, func(o span) bool { return o.Name == s })
		if at < 0 {
			return nil, fault.New(fault.Invalid, "span is %.20q, expected 7d, 30d, 90d or all", s)
		}
		f.Span = spans[at]
	}
	if f.Until != "" {
		t, err := time.Parse(time.DateOnly, f.Until)
		if err != nil {
			return nil, fault.New(fault.Invalid, "until is %.20q, expected a day such as 2013-12-31", f.Until)
		}
		f.until = t.Add(day)
	}
	return f, nil
}

// Spans are those to choose from.
func (f *spanForm) Spans() []span { return spans }

// Path is what is asked for the same time at another path of the model.
func (f *spanForm) Path(what string) string {
	return withQuery(at("/console/models", f.Model, what), "span", f.Span.Name, "until", f.Until)
}

// never is a time of which there are no predictions: asked about it the API says of when there are some.
const never = "from=2999-01-01T00:00:00Z&until=2999-01-02T00:00:00Z"

// asked gives the query for the API; "": the model has made no predictions. The span ends with the newest prediction, unless the form says
// otherwise: predictions may be as of a time that is long ago.
func (f *spanForm) asked(q *Query) (string, error) {
	var there struct {
		Elsewhere *course.Elsewhere `json:"elsewhere"`
	}
	if err := q.get(at("/admin/v1/quality", f.Model)+"?"+never, &there); err != nil {
		return "", err
	}
	if there.Elsewhere == nil {
		return "", nil
	}
	until, from, every := f.until, there.Elsewhere.From.UTC().Truncate(day), f.Span.Every
	if until.IsZero() {
		until = there.Elsewhere.Until.UTC().Add(day - 1).Truncate(day)
	}
	if f.Span.Days > 0 {
		from = until.Add(-time.Duration(f.Span.Days) * day)
	} else {
		if !from.Before(until) {
			from = until.Add(-day)
		}
		switch n := until.Sub(from) / day; {
		case n <= 14:
			every = 12 * time.Hour
		case n <= 60:
			every = day
		default:
			for until.Sub(from)/every > windowsMost {
				every *= 2
			}
		}
	}
	return fmt.Sprintf("from=%s&until=%s&every=%s", from.Format(time.RFC3339), until.Format(time.RFC3339), every), nil
}

// nothing is what a model without predictions has to show.
const nothing = "No predictions are counted yet. They are when the feedback function has read the log of predictions, every five minutes."

// newestOf is the newest version that can be compared, or all if none can.
func newestOf(d *course.Drift) []course.Drifted {
	at := -1
	for i, v := range d.Versions {
		if v.Report != nil && (at < 0 || v.Version > d.Versions[at].Version) {
			at = i
		}
	}
	if at < 0 {
		return d.Versions
	}
	return d.Versions[at : at+1]
}

// over asks for quality or drift over time and draws it: drift of all versions, or of the newest alone. said is what stands in the place
// of a picture.
func (q *Query) over(f *spanForm, asked, what string, newest bool) (picture []byte, d *course.Drift, j *course.Quality, said string, err error) {
	if asked == "" {
		return nil, nil, nil, nothing, nil
	}
	path := at("/admin/v1/"+what, f.Model) + "?" + asked
	if what == drift {
		d = &course.Drift{}
		if err := q.get(path, d); err != nil {
			return nil, nil, nil, "", err
		}
		if len(d.Versions) == 0 {
			return nil, nil, nil, "There are no predictions in this time.", nil
		}
		picture := *d
		if newest {
			picture.Versions = newestOf(d)
		}
		return picture.SVG(), d, nil, "", nil
	}
	j = &course.Quality{}
	if err := q.get(path, j); err != nil {
		return nil, nil, nil, "", err
	}
	if len(j.Versions) == 0 {
		return nil, nil, nil, "There are no predictions in this time.", nil
	}
	all, err := j.Courses("")
	if err != nil {
		return nil, nil, nil, "", err
	}
	all = slices.DeleteFunc(all, func(c course.Course) bool { return c.Of.Slice != "" })
	slices.SortFunc(all, func(a, b course.Course) int { return b.Of.Version - a.Of.Version }) // of many the newest are drawn
	return j.SVG(all), nil, j, "", nil
}

// picture answers with a picture, which says in its title what can't be had: a page shows it as an image.
func (c *Console) picture(what string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := c.query(r)
		f, err := spanOf(q)
		var asked, said string
		var svg []byte
		if err == nil {
			if asked, err = f.asked(q); err == nil {
				svg, _, _, said, err = q.over(f, asked, what, true)
			}
		}
		if err != nil {
			said = fault.Message(err)
		}
		if svg == nil {
			svg = (&chart.Figure{Title: map[string]string{quality: "Quality over time", drift: "Drift over time"}[what], Under: said, Description: said}).SVG()
		}
		h := w.Header()
		h.Set("Content-Type", "image/svg+xml")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'sha256-"+c.styling+"'")
		_, _ = w.Write(svg) // a reader that is gone needs no picture
	}
}

// overTimePage is quality and drift over time, large, with what they say in words.
type overTimePage struct {
	Model   string
	Span    *spanForm
	Quality overTime
	Drift   overTime
}

type overTime struct {
	Picture template.HTML
	Away    string
	Words   []sentence
	Rows    []judgedRow
	Metrics []string
}

// sentence says something about a column.
type sentence struct {
	Text     string
	Examples []exhibit
}

// judgedRow is a version or a slice by the metrics that tell most.
type judgedRow struct {
	Version             int
	Slice               string
	Predicted, Outcomes int64
	Values              []string
	Why                 string
	Worst               []exhibit
}

func (c *Console) overTime(q *Query) (*View, error) {
	f, err := spanOf(q)
	if err != nil {
		return nil, err
	}
	p := &overTimePage{Model: f.Model, Span: f}
	asked, err := f.asked(q)
	if err != nil {
		return nil, err
	}
	var pictures [2][]byte
	var moved *course.Drift
	var judged *course.Quality
	var said [2]string
	errs := make([]error, 2)
	done := make(chan struct{})
	go func() {
		defer close(done)
		pictures[1], moved, _, said[1], errs[1] = q.over(f, asked, drift, false)
	}()
	pictures[0], _, judged, said[0], errs[0] = q.over(f, asked, quality, false)
	<-done
	for i, to := range []*overTime{&p.Quality, &p.Drift} {
		if to.Away = said[i]; errs[i] != nil {
			if fault.Is(errs[i], fault.Unauthenticated) {
				return nil, errs[i]
			}
			to.Away = fault.Message(errs[i])
		}
		to.Picture = template.HTML(pictures[i]) //nolint:gosec // made by the package chart, which escapes
	}
	if judged != nil {
		p.Quality.judged(judged)
	}
	if moved != nil {
		for _, v := range moved.Versions {
			m := moved.Of(v.Version)
			told := map[string]bool{}
			for i := range m.Columns {
				name := m.Columns[i].Name
				if s := m.Sentence(&m.Columns[i]); s != "" {
					told[name] = true
					p.Drift.Words = append(p.Drift.Words, sentence{fmt.Sprintf("Version %d: %s", v.Version, s), cited(v.Examples[name])})
				}
			}
			for _, c := range v.Strongest() { // what no window by itself has enough of to tell
				if !told[c.Name] {
					s := fmt.Sprintf("Version %d: %s drifted over the whole time (PSI %.2f): %s.", v.Version, clipped(c.Name, 60), c.PSI, course.Moves(c))
					p.Drift.Words = append(p.Drift.Words, sentence{s, cited(v.Examples[c.Name])})
				}
			}
			if v.Missing != "" {
				p.Drift.Words = append(p.Drift.Words, sentence{Text: fmt.Sprintf("Version %d: %s.", v.Version, v.Missing)})
			}
		}
	}
	return &View{Title: f.Model + " over time", Nav: "/console/models", Data: p}, nil
}

// judged puts the whole time into a table.
func (o *overTime) judged(j *course.Quality) {
	all, err := j.Courses("")
	if err != nil { // it has no metric to name
		return
	}
	for i := range j.Versions {
		v := &j.Versions[i]
		row := judgedRow{Version: v.Version, Slice: v.Slice, Why: v.Why, Worst: cited(v.Examples)}
		if at := slices.IndexFunc(all, func(c course.Course) bool { return c.Of == v }); at >= 0 {
			if o.Metrics == nil {
				o.Metrics = all[at].Metrics
			}
			row.Predicted, row.Outcomes = v.Report.Predicted, v.Report.Outcomes
			for _, name := range o.Metrics {
				m, told := v.Report.Metrics[name]
				switch {
				case !told:
					row.Values = append(row.Values, "–")
				case m.Interval == nil:
					row.Values = append(row.Values, number(m.Value))
				default:
					row.Values = append(row.Values, fmt.Sprintf("%s (%s to %s)", number(m.Value), number(m.Interval.Low), number(m.Interval.High)))
				}
			}
		}
		o.Rows = append(o.Rows, row)
	}
}
