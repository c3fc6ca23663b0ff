package feature

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Compiled is a Set that was checked, with everything looked up that its parts
// say of each other.
type Compiled struct {
	*Set
	entities    map[string]*Entity
	sources     map[string]*CompiledSource
	views       map[string]*CompiledView
	expressions map[string]*Expression
	services    map[string]*CompiledService
	columns     int // of all views and services

	mu        sync.Mutex
	expressed map[*Expressed]*computed // that were needed so far
	plans     plans
}

// CompiledSource is a source with what its rows look like.
type CompiledSource struct {
	*Source
	Columns []row.Field     // one for each of Fields, numbered from 1 in their order: the shape of Row.Values
	At      map[string]int  // where each lies in Fields
	TimeAt  int             // where its event time lies in Fields
	Made    int             // where its created time lies in Fields; -1: nowhere
	Views   []*CompiledView // that are made of it
}

// CompiledView is a view with where it finds what it needs.
type CompiledView struct {
	*View
	From    *CompiledSource
	Keys    []row.Field    // its entities' join keys, in order
	KeyAt   []int          // where each lies in the source's fields
	Columns []row.Field    // what it answers, in order
	FromAt  []int          // where each is made of lies in the source's fields; -1: of nothing (count)
	At      map[string]int // where each lies in Columns
	states  sync.Pool      // of *State, that Values uses
}

// CompiledService is a service with what it answers.
type CompiledService struct {
	*Service
	Columns []Column // in order, "view:*" spelled out
}

// Limits of definitions.
const (
	nameMost    = 100
	panesMost   = 10_000  // of one window and one entity
	columnsMost = 10_000  // of one source, view, expression or service
	allMost     = 200_000 // columns of all views and services
	pathMost    = 400     // bytes; names of files follow
)

// defaultTime is the column of a row's time where a source names none.
const defaultTime = "event_timestamp"

// Compile checks a set. What it refuses is Invalid and names the thing; a set that it
// takes has no part that could not be computed. The set is not changed.
func Compile(s *Set) (*Compiled, error) {
	c, err := compile(s)
	if err != nil {
		return nil, err
	}
	if err := compileExpressions(c); err != nil {
		return nil, err
	}
	return c, nil
}

// compile is Compile for a set that was checked before: it leaves expressions for when
// they are needed, as reading them takes longer than a process takes to start.
func compile(s *Set) (*Compiled, error) {
	c := &Compiled{
		Set: s, entities: map[string]*Entity{}, sources: map[string]*CompiledSource{}, views: map[string]*CompiledView{},
		expressions: map[string]*Expression{}, services: map[string]*CompiledService{},
	}
	for i := range s.Entities {
		if err := c.addEntity(&s.Entities[i]); err != nil {
			return nil, err
		}
	}
	for i := range s.Sources {
		if err := c.addSource(&s.Sources[i]); err != nil {
			return nil, err
		}
	}
	for i := range s.Views {
		if err := c.addView(&s.Views[i]); err != nil {
			return nil, err
		}
	}
	for i := range s.Expressions {
		if err := c.addExpression(&s.Expressions[i]); err != nil {
			return nil, err
		}
	}
	for i := range s.Services {
		if err := c.addService(&s.Services[i]); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Entity finds an entity; one that is not defined is NotFound.
func (c *Compiled) Entity(name string) (*Entity, error) {
	return lookup(c.entities, "entity", name)
}

// Source finds a source; one that is not defined is NotFound.
func (c *Compiled) Source(name string) (*CompiledSource, error) {
	return lookup(c.sources, "source", name)
}

// View finds a view; one that is not defined is NotFound, in the words that
// Feast's clients look for.
func (c *Compiled) View(name string) (*CompiledView, error) {
	return lookup(c.views, "Feature view", name)
}

func lookup[T any](from map[string]*T, kind, name string) (*T, error) {
	if t := from[name]; t != nil {
		return t, nil
	}
	return nil, fault.New(fault.NotFound, "%s %.100s does not exist", kind, name)
}

func invalid(format string, args ...any) error { return fault.New(fault.Invalid, format, args...) }

func checkName(kind, name string) error {
	ok := name != "" && len(name) <= nameMost
	for i := 0; ok && i < len(name); i++ {
		b := name[i]
		ok = 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || i > 0 && (b == '_' || '0' <= b && b <= '9')
	}
	if !ok {
		return invalid("the name of %s %.120q is not one: it has 1 to %d letters, digits and _, and begins with a letter", kind, name, nameMost)
	}
	return nil
}

func (c *Compiled) addEntity(e *Entity) error {
	if err := checkName("entity", e.Name); err != nil {
		return err
	}
	if c.entities[e.Name] != nil {
		return invalid("entity %q is defined twice", e.Name)
	}
	if len(e.Keys) == 0 {
		return invalid("entity %q has no keys", e.Name)
	}
	if _, err := checkFields("entity "+e.Name, "key", e.Keys); err != nil {
		return err
	}
	for _, k := range e.Keys {
		if k.Type.IsList() || k.Type.Float() {
			return invalid("entity %q: key %q is a %s, and no key can be a list or a float", e.Name, k.Name, k.Type)
		}
	}
	c.entities[e.Name] = e
	return nil
}

// checkFields checks fields of an owner such as "entity carrier", which it calls
// by what, and tells where each lies.
func checkFields(owner, what string, fields []Field) (map[string]int, error) {
	if len(fields) > columnsMost {
		return nil, invalid("%s has %d %ss, more than %d", owner, len(fields), what, columnsMost)
	}
	at, folded := map[string]int{}, map[string]string{}
	for i, f := range fields {
		if err := checkName(what, f.Name); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "%s: %s", owner, fault.Message(err))
		}
		// SQL, which reads the rows offline, takes the two for one.
		if other, ok := folded[strings.ToLower(f.Name)]; ok {
			if other == f.Name {
				return nil, invalid("%s has two %ss %q", owner, what, f.Name)
			}
			return nil, invalid("%s: %ss %q and %q differ in nothing but case", owner, what, other, f.Name)
		}
		at[f.Name], folded[strings.ToLower(f.Name)] = i, f.Name
		if err := checkField(f); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "%s: %s %q %s", owner, what, f.Name, fault.Message(err))
		}
	}
	return at, nil
}

func checkField(f Field) error {
	if !f.Type.Valid() {
		return invalid("has no type")
	}
	for name, limit := range map[string]*float64{"min": f.Min, "max": f.Max} {
		switch {
		case limit == nil:
		case !f.Type.Numeric():
			return invalid("has a %s, which is for numbers, and is a %s", name, f.Type)
		case math.IsNaN(*limit) || math.IsInf(*limit, 0):
			return invalid("has a %s that is no number", name)
		}
	}
	if f.Min != nil && f.Max != nil && *f.Min > *f.Max {
		return invalid("has a min of %v above its max of %v", *f.Min, *f.Max)
	}
	if f.OneOf != nil && f.Type != row.String {
		return invalid("has one_of, which is for strings, and is a %s", f.Type)
	}
	return nil
}

func checkDuration(owner, what string, d Duration) error {
	if d < 0 || time.Duration(d)%time.Microsecond != 0 {
		return invalid("%s: %s is %s, expected a whole number of microseconds that is not negative", owner, what, d)
	}
	return nil
}

func (c *Compiled) addSource(s *Source) error {
	if err := checkName("source", s.Name); err != nil {
		return err
	}
	owner := "source " + s.Name
	if c.sources[s.Name] != nil {
		return invalid("source %q is defined twice", s.Name)
	}
	at, err := checkFields(owner, "column", s.Fields)
	if err != nil {
		return err
	}
	k := &CompiledSource{Source: s, Columns: make([]row.Field, len(s.Fields)), At: at, Made: -1}
	for i, f := range s.Fields {
		k.Columns[i] = row.Field{Name: f.Name, Type: f.Type, ID: uint32(i + 1)}
	}
	if k.TimeAt, err = k.timestamp("time", s.timeColumn()); err != nil {
		return err
	}
	if s.Created != "" {
		if k.Made, err = k.timestamp("created", s.Created); err != nil {
			return err
		}
	}
	if err := checkDuration(owner, "fresh", s.Fresh); err != nil {
		return err
	}
	if s.Path != "" {
		folder, ok := strings.CutSuffix(s.Path, "/")
		if err := store.CheckKey(folder); !ok || err != nil || len(s.Path) > pathMost {
			return fault.Wrap(fault.Invalid, err, `source %q: path %.100q is not a folder of the bucket such as "landing/weather/": it ends in / and has letters, digits and -_.=@:+ only, at most %d`, s.Name, s.Path, pathMost)
		}
		if s.Fresh != 0 {
			return invalid("source %q has both a path and fresh, which is for rows that are pushed", s.Name)
		}
	}
	c.sources[s.Name] = k
	return nil
}

func (s *Source) timeColumn() string {
	if s.Time == "" {
		return defaultTime
	}
	return s.Time
}

func (k *CompiledSource) timestamp(what, column string) (int, error) {
	at, ok := k.At[column]
	switch {
	case !ok && what == "time" && k.Time == "":
		return 0, invalid("source %q has no column %q, and its time names no other", k.Name, column)
	case !ok:
		return 0, invalid("source %q: %s names column %.100q, which it does not have", k.Name, what, column)
	case k.Fields[at].Type != row.Timestamp:
		return 0, invalid("source %q: %s names column %q, which is a %s and no timestamp", k.Name, what, column, k.Fields[at].Type)
	}
	return at, nil
}

func (c *Compiled) addView(v *View) error {
	if err := c.takeName("view", v.Name); err != nil {
		return err
	}
	owner := "view " + v.Name
	k := &CompiledView{View: v, From: c.sources[v.Source], At: map[string]int{}}
	if k.From == nil {
		return invalid("view %q: source %.100q is not defined", v.Name, v.Source)
	}
	if err := k.addKeys(c); err != nil {
		return err
	}
	for what, d := range map[string]Duration{"ttl": v.TTL, "lateness": v.Lateness} {
		if err := checkDuration(owner, what, d); err != nil {
			return err
		}
	}
	var err error
	switch {
	case len(v.Windows) == 0 && v.Lateness != 0:
		err = invalid("view %q has a lateness, which is for windows, and no windows", v.Name)
	case len(v.Windows) == 0:
		err = k.addFeatures()
	case len(v.Features) > 0:
		err = invalid("view %q has both features and windows; make two views of it", v.Name)
	case v.TTL != 0:
		err = invalid("view %q has both a ttl and windows, whose size says how old a row may be", v.Name)
	default:
		err = k.addWindows()
	}
	if err != nil {
		return err
	}
	if len(k.Columns) == 0 {
		return invalid("view %q has no features: source %q has nothing but keys and times", v.Name, v.Source)
	}
	if len(k.Columns) > columnsMost {
		return invalid("view %q has %d features, more than %d", v.Name, len(k.Columns), columnsMost)
	}
	if err := c.count(len(k.Columns)); err != nil {
		return err
	}
	ids, err := number(v.IDs, k.Columns)
	if err != nil {
		return invalid("view %q: %s", v.Name, fault.Message(err))
	}
	for i := range k.Columns {
		k.Columns[i].ID = ids[k.Columns[i].Name]
	}
	k.From.Views = append(k.From.Views, k)
	c.views[v.Name] = k
	return nil
}

// count bounds how much a few words may stand for: "view:*", and views of all columns.
func (c *Compiled) count(columns int) error {
	if c.columns += columns; c.columns > allMost {
		return invalid("all views and services together have more than %d features", allMost)
	}
	return nil
}

// takeName checks the name of a view or expression, which share one space of names.
func (c *Compiled) takeName(kind, name string) error {
	if err := checkName(kind, name); err != nil {
		return err
	}
	switch {
	case c.views[name] != nil && kind == "view", c.expressions[name] != nil && kind != "view":
		return invalid("%s %q is defined twice", kind, name)
	case c.views[name] != nil || c.expressions[name] != nil:
		return invalid("%q names both a view and an expression", name)
	}
	return nil
}

func (k *CompiledView) addKeys(c *Compiled) error {
	if len(k.Entities) == 0 {
		return invalid("view %q has no entities", k.Name)
	}
	for i, name := range k.Entities {
		e := c.entities[name]
		if e == nil {
			return invalid("view %q: entity %.100q is not defined", k.Name, name)
		}
		if slices.Contains(k.Entities[:i], name) {
			return invalid("view %q names entity %q twice", k.Name, name)
		}
		for _, key := range e.Keys {
			at, ok := k.From.At[key.Name]
			switch {
			case !ok:
				return invalid("view %q: source %q has no column %q, which is a key of entity %q", k.Name, k.Source, key.Name, name)
			case k.From.Fields[at].Type != key.Type:
				return invalid("view %q: column %q is a %s in source %q, and a %s as key of entity %q", k.Name, key.Name, k.From.Fields[at].Type, k.Source, key.Type, name)
			case slices.Contains(k.KeyAt, at):
				return invalid("view %q: two of its entities have the key %q", k.Name, key.Name)
			}
			k.Keys = append(k.Keys, row.Field{Name: key.Name, Type: key.Type, ID: uint32(len(k.Keys) + 1)})
			k.KeyAt = append(k.KeyAt, at)
		}
	}
	return nil
}

// addColumn adds a feature; at is where the column lies that it is made of.
func (k *CompiledView) addColumn(name string, t row.Type, at int) error {
	if _, ok := k.At[name]; ok {
		return invalid("view %q has two features %q", k.Name, name)
	}
	if slices.ContainsFunc(k.Keys, func(key row.Field) bool { return key.Name == name }) {
		return invalid("view %q: feature %q has the name of a key", k.Name, name)
	}
	k.At[name] = len(k.Columns)
	k.Columns = append(k.Columns, row.Field{Name: name, Type: t})
	k.FromAt = append(k.FromAt, at)
	return nil
}

func (k *CompiledView) addFeatures() error {
	for _, name := range k.Features {
		at, ok := k.From.At[name]
		if !ok {
			return invalid("view %q: source %q has no column %.100q", k.Name, k.Source, name)
		}
		if err := k.addColumn(name, k.From.Fields[at].Type, at); err != nil {
			return err
		}
	}
	if len(k.Features) > 0 {
		return nil
	}
	for at, f := range k.From.Fields {
		if at == k.From.TimeAt || at == k.From.Made || slices.Contains(k.KeyAt, at) {
			continue
		}
		if err := k.addColumn(f.Name, f.Type, at); err != nil {
			return err
		}
	}
	return nil
}

func (k *CompiledView) addWindows() error {
	for _, w := range k.Windows {
		if err := checkName("window", w.Name); err != nil {
			return fault.Wrap(fault.Invalid, err, "view %s: %s", k.Name, fault.Message(err))
		}
		t, at, err := k.aggregate(w)
		if err == nil {
			err = checkSpan(w, k.Lateness)
		}
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "view %q: window %q: %s", k.Name, w.Name, fault.Message(err))
		}
		if err := k.addColumn(w.Name, t, at); err != nil {
			return err
		}
	}
	return nil
}

// aggregate tells the type of a window's result and where the column lies that it is made of.
func (k *CompiledView) aggregate(w Window) (row.Type, int, error) {
	at, of := -1, row.Type(0)
	if w.Of != "" {
		var ok bool
		if at, ok = k.From.At[w.Of]; !ok {
			return 0, 0, invalid("source %q has no column %.100q", k.Source, w.Of)
		}
		of = k.From.Fields[at].Type
	}
	switch w.Aggregate {
	case "count", "sum", "mean", "min", "max", "distinct", "last":
	default:
		return 0, 0, invalid("aggregate %.50q is not one of count, sum, mean, min, max, distinct, last", w.Aggregate)
	}
	switch {
	case w.Aggregate == "count":
		return row.Int64, at, nil
	case w.Of == "":
		return 0, 0, invalid("a %s is of a column, and none is named", w.Aggregate)
	case w.Aggregate == "last":
		return of, at, nil
	case w.Aggregate == "distinct" && of.IsList():
		return 0, 0, invalid("column %q is a %s, and lists are not told apart", w.Of, of)
	case w.Aggregate == "distinct":
		return row.Int64, at, nil
	case !of.Numeric():
		return 0, 0, invalid("column %q is a %s, and a %s is of numbers", w.Of, of, w.Aggregate)
	case w.Aggregate == "mean", w.Aggregate == "sum" && of.Float():
		return row.Float64, at, nil
	case w.Aggregate == "sum":
		return row.Int64, at, nil
	}
	return of, at, nil // min and max
}

func checkSpan(w Window, lateness Duration) error {
	for what, d := range map[string]Duration{"size": w.Size, "slide": w.Slide} {
		if err := checkDuration("it", what, d); err != nil {
			return err
		}
	}
	if w.Size == 0 {
		return invalid("it has no size")
	}
	pane := w.Slide
	if pane == 0 {
		pane = w.Size
	}
	switch {
	case w.Size%pane != 0:
		return invalid("its slide of %s does not divide its size of %s", w.Slide, w.Size)
	case w.Size/pane > panesMost:
		return invalid("its size of %s has %d slides of %s, more than %d", w.Size, w.Size/pane, w.Slide, panesMost)
	case lateness/pane > panesMost-w.Size/pane:
		return invalid("its size and the view's lateness of %s have more than %d steps of %s", lateness, panesMost, pane)
	}
	return nil
}

// number gives each column its number: the one that it has, else the next that none has had.
func number(known map[string]uint32, columns []row.Field) (map[string]uint32, error) {
	ids := make(map[string]uint32, len(known)+len(columns))
	last := uint32(0)
	seen := make(map[uint32]bool, len(known))
	for name, id := range known {
		if id == 0 || id > row.MaxID || seen[id] {
			return nil, invalid("feature %.100q has the number %d, which is none or another's too", name, id)
		}
		ids[name], seen[id] = id, true
		last = max(last, id)
	}
	for _, c := range columns {
		if ids[c.Name] != 0 {
			continue
		}
		if last == row.MaxID {
			return nil, invalid("it has had %d features, and there can't be more", row.MaxID)
		}
		last++
		ids[c.Name] = last
	}
	return ids, nil
}

func (c *Compiled) addExpression(e *Expression) error {
	if err := c.takeName("expression", e.Name); err != nil {
		return err
	}
	owner := "expression " + e.Name
	if _, err := checkFields(owner, "input", e.Inputs); err != nil {
		return err
	}
	if len(e.Features) == 0 || len(e.Features) > columnsMost {
		return invalid("expression %q has %d features, expected 1 to %d", e.Name, len(e.Features), columnsMost)
	}
	seen := map[string]bool{}
	for _, f := range e.Features {
		if err := checkName("feature", f.Name); err != nil {
			return fault.Wrap(fault.Invalid, err, "%s: %s", owner, fault.Message(err))
		}
		switch {
		case seen[f.Name]:
			return invalid("expression %q has two features %q", e.Name, f.Name)
		case !f.Type.Valid():
			return invalid("expression %q: feature %q has no type", e.Name, f.Name)
		case strings.TrimSpace(f.Value) == "":
			return invalid("expression %q: feature %q has no value to compute", e.Name, f.Name)
		}
		seen[f.Name] = true
	}
	c.expressions[e.Name] = e
	return nil
}

func (c *Compiled) addService(s *Service) error {
	if err := checkName("service", s.Name); err != nil {
		return err
	}
	if c.services[s.Name] != nil {
		return invalid("service %q is defined twice", s.Name)
	}
	if len(s.Features) == 0 || len(s.Features) > columnsMost {
		return invalid("service %q has %d features, expected 1 to %d", s.Name, len(s.Features), columnsMost)
	}
	k := &CompiledService{Service: s}
	seen := map[string]string{}
	for _, choice := range s.Features {
		columns, err := c.choose(choice)
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "service %q: %s", s.Name, fault.Message(err))
		}
		for _, col := range columns {
			of := col.View + ":" + col.Feature
			if other, ok := seen[col.Name]; ok {
				return invalid("service %q: %s and %s are both called %q; give one of them another name by as", s.Name, other, of, col.Name)
			}
			seen[col.Name] = of
		}
		if k.Columns = append(k.Columns, columns...); len(k.Columns) > columnsMost {
			return invalid("service %q has more than %d features", s.Name, columnsMost)
		}
	}
	c.services[s.Name] = k
	return c.count(len(k.Columns))
}

// choose gives the columns that a choice means: one, or all of "view:*".
func (c *Compiled) choose(choice Choice) ([]Column, error) {
	view, feature, ok := strings.Cut(choice.Feature, ":")
	if !ok {
		return nil, invalid(`%.100q is not "view:feature" or "view:*"`, choice.Feature)
	}
	if feature == "*" {
		if choice.As != "" || choice.Default != nil {
			return nil, invalid("%q stands for many and can have no as and no default", choice.Feature)
		}
		return c.all(view)
	}
	col, err := c.column(view, feature)
	if err != nil {
		return nil, err
	}
	if choice.As != "" {
		if len(choice.As) > 2*nameMost {
			return nil, invalid("%s: as is longer than %d bytes", choice.Feature, 2*nameMost)
		}
		col.Name = choice.As
	}
	if choice.Default != nil {
		var raw []byte
		if raw, err = json.Marshal(choice.Default); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "%s: its default is no value", choice.Feature)
		}
		if col.Default, err = row.ParseJSON(col.Type, raw); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "%s: its default: %s", choice.Feature, fault.Message(err))
		}
	}
	return []Column{col}, nil
}

// column finds a feature of a view or expression.
func (c *Compiled) column(view, feature string) (Column, error) {
	if v := c.views[view]; v != nil {
		if at, ok := v.At[feature]; ok {
			return v.column(at), nil
		}
	} else if e := c.expressions[view]; e != nil {
		if at := slices.IndexFunc(e.Features, func(f Expressed) bool { return f.Name == feature }); at >= 0 {
			return e.column(at), nil
		}
	} else {
		return Column{}, noView(view)
	}
	return Column{}, invalid("%q has no feature %.100q", view, feature)
}

// all gives every feature of a view or expression.
func (c *Compiled) all(view string) ([]Column, error) {
	var columns []Column
	if v := c.views[view]; v != nil {
		for at := range v.Columns {
			columns = append(columns, v.column(at))
		}
		return columns, nil
	}
	if e := c.expressions[view]; e != nil {
		for at := range e.Features {
			columns = append(columns, e.column(at))
		}
		return columns, nil
	}
	return nil, noView(view)
}

func noView(name string) error { return invalid("there is no view or expression %.100q", name) }

func (k *CompiledView) column(at int) Column {
	f := k.Columns[at]
	return Column{Name: f.Name, View: k.Name, Feature: f.Name, Type: f.Type, Version: k.Version}
}

func (e *Expression) column(at int) Column {
	f := e.Features[at]
	return Column{Name: f.Name, View: e.Name, Feature: f.Name, Type: f.Type, Version: e.Version}
}
