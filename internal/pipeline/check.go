package pipeline

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// What a definition may have at most.
const (
	stepsMost     = 100
	documentsMost = 500
	onMost        = 20
	whereMost     = 20
	retriesMost   = 20
	timeoutMost   = 7 * 24 * time.Hour
	pauseMost     = 366 * 24 * time.Hour
	everyLeast    = time.Minute // ticks do not come more often
)

// What stands where neither the definition nor the Kind says anything.
const (
	retriesUsual = 2
	timeoutUsual = time.Hour
)

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func checkName(what, name string) error {
	if !nameForm.MatchString(name) {
		return fault.New(fault.Invalid, "the %s %.100q is not 1 to 63 lower-case letters, digits, \"-\" and \"_\", the first one a letter or digit", what, name)
	}
	return nil
}

// Parse reads definitions, one in each document of YAML; name is what errors call the text. It
// checks what can be told without knowing the kinds of steps. Errors are Invalid, and say where.
func Parse(name string, b []byte) ([]Definition, error) {
	if len(b) > yamlwire.Most {
		return nil, fault.New(fault.Invalid, "%s has %d bytes of definitions, more than %d", name, len(b), yamlwire.Most)
	}
	var all []Definition
	line, n := 0, 0
	for document := range documents(string(b)) {
		if n++; n > documentsMost { // each takes as long as all lines before it
			return nil, fault.New(fault.Invalid, "%s has more than %d documents", name, documentsMost)
		}
		// Lines before it are kept as empty ones, so that errors count them.
		read, err := yamlwire.Read[Definition](name, []byte(strings.Repeat("\n", line)+document))
		if err != nil {
			return nil, err
		}
		line += strings.Count(document, "\n")
		for _, d := range read {
			d.Text = strings.TrimSpace(strings.TrimPrefix(document, "---")) + "\n"
			if _, err := d.compile(nil); err != nil {
				return nil, fault.New(fault.Invalid, "%s: %s", name, fault.Message(err))
			}
			if slices.ContainsFunc(all, func(o Definition) bool { return o.Name == d.Name }) {
				return nil, fault.New(fault.Invalid, "%s: the pipeline %s is defined twice", name, d.Name)
			}
			all = append(all, d)
		}
	}
	return all, nil
}

// documents cuts YAML at the lines that begin one: within a document no line may begin so.
func documents(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		var document strings.Builder
		for line := range strings.Lines(text) {
			if rest, marks := strings.CutPrefix(line, "---"); marks && (strings.TrimSpace(rest) == "" || rest[0] == ' ' || rest[0] == '\t') && document.Len() > 0 {
				if !yield(document.String()) {
					return
				}
				document.Reset()
			}
			document.WriteString(line)
		}
		yield(document.String())
	}
}

// plan is a definition that can be run.
type plan struct {
	*Definition
	steps []planned
}

// planned is a step of a plan.
type planned struct {
	Spec
	kind    *Kind
	step    Step
	before  []int // which steps have to be done before it
	retries int
	timeout time.Duration
}

// starts tells whether an event starts the pipeline. fields are its data's.
func (p *plan) starts(e *event.Event, fields map[string]string) bool {
	return slices.ContainsFunc(p.On, func(s Start) bool {
		if s.Event != e.Type() {
			return false
		}
		for field, want := range s.Where {
			got, ok := fields[field]
			if field == "subject" {
				got, ok = e.Subject(), true
			}
			if !ok || got != want {
				return false
			}
		}
		return true
	})
}

// every gives the shortest of the times by which the pipeline is started; 0: by none.
func (p *plan) every() time.Duration {
	least := time.Duration(0)
	for _, s := range p.On {
		if d := time.Duration(s.Every); d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

// compile checks a definition against the kinds there are (nil: they are not known, and steps not looked into), and makes
// a plan of it. Errors are Invalid, and name the step.
func (d *Definition) compile(kinds map[string]*Kind) (*plan, error) {
	invalid := func(format string, args ...any) error { return fault.New(fault.Invalid, format, args...) }
	if err := checkName("pipeline's name", d.Name); err != nil {
		return nil, err
	}
	switch {
	case len(d.Steps) == 0:
		return nil, invalid("pipeline %s has no steps", d.Name)
	case len(d.Steps) > stepsMost:
		return nil, invalid("pipeline %s has %d steps, more than %d", d.Name, len(d.Steps), stepsMost)
	case len(d.On) > onMost:
		return nil, invalid("pipeline %s is started by %d things, more than %d", d.Name, len(d.On), onMost)
	case d.Pause < 0 || time.Duration(d.Pause) > pauseMost:
		return nil, invalid("pipeline %s: pause is %s, expected up to %s", d.Name, d.Pause, yamlwire.Duration(pauseMost))
	}
	for i, s := range d.On {
		if err := s.check(); err != nil {
			return nil, invalid("pipeline %s: on, element %d: %s", d.Name, i+1, fault.Message(err))
		}
	}
	p := &plan{Definition: d, steps: make([]planned, len(d.Steps))}
	at := map[string]int{}
	for i, s := range d.Steps {
		if err := checkName("step's name", s.Name); err != nil {
			return nil, err
		}
		if _, twice := at[s.Name]; twice {
			return nil, invalid("there are two steps %s", s.Name)
		}
		at[s.Name] = i
	}
	for i, s := range d.Steps {
		step, err := s.plan(kinds, at)
		if err != nil {
			return nil, invalid("step %s: %s", s.Name, fault.Message(err))
		}
		p.steps[i] = *step
	}
	if kinds != nil {
		for i := range p.steps {
			if err := p.connect(i, at); err != nil {
				return nil, invalid("step %s: %s", p.steps[i].Name, fault.Message(err))
			}
		}
	}
	if cycle := p.cycle(); cycle != nil {
		return nil, invalid("the steps %s wait for each other", strings.Join(cycle, " -> "))
	}
	return p, nil
}

func (s *Start) check() error {
	switch {
	case (s.Event == "") == (s.Every == 0):
		return fault.New(fault.Invalid, "expected either an event or every")
	case s.Event == "" && len(s.Where) > 0:
		return fault.New(fault.Invalid, "where is said of events, not of every")
	case s.Event == "" && (time.Duration(s.Every) < everyLeast || time.Duration(s.Every) > pauseMost):
		return fault.New(fault.Invalid, "every is %s, expected %s to %s", s.Every, yamlwire.Duration(everyLeast), yamlwire.Duration(pauseMost))
	case len(s.Where) > whereMost:
		return fault.New(fault.Invalid, "where has %d fields, more than %d", len(s.Where), whereMost)
	case s.Event == "":
		return nil
	}
	if !slices.ContainsFunc(starters, func(t starter) bool { return t.Name == s.Event }) {
		names := []string{}
		for _, t := range starters {
			names = append(names, t.Name)
		}
		return fault.New(fault.Invalid, "pipelines are not started by events %.100q, but by %s", s.Event, strings.Join(names, ", "))
	}
	known := fieldsOf(event.Lookup(s.Event))
	for _, field := range slices.Sorted(maps.Keys(s.Where)) {
		if field != "subject" && !slices.Contains(known, field) {
			return fault.New(fault.Invalid, "where: the event %s has no field %.100q, but subject and %s", s.Event, field, strings.Join(known, ", "))
		}
	}
	return nil
}

// fieldsOf lists the fields of an event's data that are single values.
func fieldsOf(d *event.Declaration) []string {
	var names []string
	for f := range d.Data.Fields() {
		switch f.Type.Kind() {
		case reflect.String, reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64:
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}

// plan checks what can be said of a step by itself.
func (s *Spec) plan(kinds map[string]*Kind, at map[string]int) (*planned, error) {
	p := &planned{Spec: *s, retries: retriesUsual, timeout: timeoutUsual}
	switch {
	case s.Use == "":
		return nil, fault.New(fault.Invalid, "use is missing: it says what the step does")
	case s.Retries != nil && (*s.Retries < 0 || *s.Retries > retriesMost):
		return nil, fault.New(fault.Invalid, "retries is %d, expected 0 to %d", *s.Retries, retriesMost)
	case s.Timeout < 0 || time.Duration(s.Timeout) > timeoutMost:
		return nil, fault.New(fault.Invalid, "timeout is %s, expected up to %s", s.Timeout, yamlwire.Duration(timeoutMost))
	}
	if s.Retries != nil {
		p.retries = *s.Retries
	}
	for _, name := range s.After {
		i, ok := at[name]
		if !ok {
			return nil, fault.New(fault.Invalid, "after: there is no step %.100q", name)
		}
		p.before = append(p.before, i)
	}
	for _, input := range slices.Sorted(maps.Keys(s.In)) {
		step, _, ok := strings.Cut(s.In[input], ".")
		i, known := at[step]
		if !ok || !known {
			return nil, fault.New(fault.Invalid, "the input %.100s is %.100q, expected the output of a step, as step.output", input, s.In[input])
		}
		p.before = append(p.before, i)
	}
	if kinds == nil {
		return p, nil
	}
	if p.kind = kinds[s.Use]; p.kind == nil {
		return nil, fault.New(fault.Invalid, "there is no kind of steps %.100q, but %s", s.Use, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
	}
	if p.kind.Timeout > 0 {
		p.timeout = p.kind.Timeout
	}
	if s.Timeout > 0 {
		p.timeout = time.Duration(s.Timeout)
	}
	var err error
	p.step, err = p.kind.New(s.With)
	return p, err
}

// connect checks that a step gets what it reads, from steps that give it.
func (p *plan) connect(i int, at map[string]int) error {
	s := &p.steps[i]
	for _, port := range s.kind.In {
		if _, given := s.In[port.Name]; !given && !port.Optional {
			return fault.New(fault.Invalid, "the input %s of %s is missing", port.Name, s.Use)
		}
	}
	for _, input := range slices.Sorted(maps.Keys(s.In)) {
		if !has(s.kind.In, input) {
			return fault.New(fault.Invalid, "%s has no input %.100q%s", s.Use, input, list(", but ", s.kind.In))
		}
		step, output, _ := strings.Cut(s.In[input], ".")
		if from := p.steps[at[step]].kind; !has(from.Out, output) {
			return fault.New(fault.Invalid, "the input %s is %q, and %s gives no %.100q%s", input, s.In[input], from.Name, output, list(", but ", from.Out))
		}
	}
	return nil
}

func has(ports []Port, name string) bool {
	return slices.ContainsFunc(ports, func(p Port) bool { return p.Name == name })
}

// list names ports, with words before them if there are any.
func list(before string, ports []Port) string {
	if len(ports) == 0 {
		return ""
	}
	names := make([]string, len(ports))
	for i, p := range ports {
		names[i] = p.Name
	}
	return before + strings.Join(names, ", ")
}

// cycle names steps that wait for each other, the first one again at the end; nil: there are none.
func (p *plan) cycle() []string {
	const looking, done = 1, 2
	state := make([]int, len(p.steps))
	var path []int
	var visit func(i int) []string
	visit = func(i int) []string {
		state[i] = looking
		path = append(path, i)
		for _, j := range p.steps[i].before {
			if state[j] == looking {
				var names []string
				for _, k := range path[slices.Index(path, j):] {
					names = append(names, p.steps[k].Name)
				}
				return append(names, p.steps[j].Name)
			}
			if state[j] != done {
				if found := visit(j); found != nil {
					return found
				}
			}
		}
		path = path[:len(path)-1]
		state[i] = done
		return nil
	}
	for i := range p.steps {
		if state[i] == 0 {
			if found := visit(i); found != nil {
				return found
			}
		}
	}
	return nil
}
