package feature

import (
	"errors"
	"math"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/checker"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// Limits of expressions. With them, and with what checker.types refuses, the work and the
// memory of one evaluation are bounded whatever it says and whatever it is given.
const (
	sourceMost  = 4096    // characters of one
	sourcesMost = 1 << 20 // bytes of all in a set
	nestingMost = 100     // of parentheses, calls and the like
	chainMost   = 100     // expressions that need each other
	nodesMost   = 2000    // once macros are spelled out
	regexMost   = 1000    // steps of a pattern
	costMost    = 20_000  // of CEL's units: about a step each, or ten characters of text
	longest     = 1 << 16 // bytes of a text, or elements of a list, that goes in or comes out
)

// computed is one feature of an expression, checked.
type computed struct {
	of      *Expression
	at      int // in of.Features
	touches []operand
	depth   int // of expressions that it needs, with itself
	program func() (cel.Program, error)
}

// operand is something that an expression needs.
type operand struct {
	name          string // in the expression
	view, feature string // view or expression; both empty for an input
	typ           row.Type
}

// compileExpressions checks all expressions of a set whose other parts are compiled.
func compileExpressions(c *Compiled) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := 0
	for i := range c.Expressions {
		e := &c.Expressions[i]
		for at := range e.Features {
			if size += len(e.Features[at].Value); size > sourcesMost {
				return invalid("all expressions together have more than %d bytes", sourcesMost)
			}
			if _, err := c.computed(e, at, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// computed gives a checked feature of an expression, with all that it needs. Needed are
// the features that led here, to find those that need themselves. The caller holds c.mu.
func (c *Compiled) computed(e *Expression, at int, needed []string) (*computed, error) {
	f := &e.Features[at]
	name := e.Name + "." + f.Name
	if k := c.expressed[f]; k != nil {
		return k, nil
	}
	if i := slices.Index(needed, name); i >= 0 {
		return nil, invalid("expressions need each other in a circle: %s", strings.Join(append(needed[i:], name), " -> "))
	}
	k, err := c.check(e, at)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "expression %q: feature %q: %s", e.Name, f.Name, fault.Message(err))
	}
	needed = append(needed, name)
	k.depth = 1
	for _, t := range k.touches {
		if o := c.expressions[t.view]; o != nil {
			n, err := c.computed(o, o.index(t.feature), needed)
			if err != nil {
				return nil, err
			}
			k.depth = max(k.depth, n.depth+1)
		}
	}
	if k.depth > chainMost || len(needed) > chainMost {
		return nil, invalid("more than %d expressions need each other in a row, among them %s", chainMost, name)
	}
	if c.expressed == nil {
		c.expressed = map[*Expressed]*computed{}
	}
	c.expressed[f] = k
	return k, nil
}

func (e *Expression) index(feature string) int {
	return slices.IndexFunc(e.Features, func(f Expressed) bool { return f.Name == feature })
}

// language is what all expressions are written in. To make it takes a moment, which
// processes without expressions are spared.
var language = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.CrossTypeNumericComparisons(true),
		cel.EnableHiddenAccumulatorName(true), // that nobody can name
		cel.EagerlyValidateDeclarations(true), // so that Extend is cheap
		cel.ParserRecursionLimit(nestingMost),
		cel.ParserExpressionSizeLimit(sourceMost),
		cel.ExpressionNodeLimit(nodesMost),
		cel.ParserErrorRecoveryLimit(1),
		cel.ASTValidators(cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
	)
})

// check parses one feature's value, finds what it touches, and checks the types.
func (c *Compiled) check(e *Expression, at int) (*computed, error) {
	env, err := language()
	if err != nil {
		return nil, err
	}
	f := &e.Features[at]
	if n := utf8.RuneCountInString(f.Value); n > sourceMost {
		return nil, invalid("its value has %d characters, more than %d", n, sourceMost)
	}
	parsed, issues := env.Parse(f.Value)
	if err := complaint(issues); err != nil {
		return nil, err
	}
	k := &scope{set: c, of: e, info: parsed.NativeRep().SourceInfo()}
	if err := k.walk(parsed.NativeRep().Expr(), nil); err != nil {
		return nil, err
	}
	variables := make([]cel.EnvOption, len(k.touches))
	for i, t := range k.touches {
		variables[i] = cel.Variable(t.name, celType(t.typ))
	}
	if env, err = env.Extend(variables...); err != nil {
		return nil, invalid("its names are not usable: %.200s", err)
	}
	checked, issues := env.Check(parsed)
	if err := complaint(issues); err != nil {
		return nil, err
	}
	if err := k.types(checked.NativeRep()); err != nil {
		return nil, err
	}
	if out := checked.OutputType(); !becomes(out, f.Type) {
		return nil, invalid("its value is a %s and can't become a %s", out, f.Type)
	}
	cost, err := env.EstimateCost(checked, bounds{})
	if err != nil {
		return nil, err
	}
	if cost.Min > costMost {
		return nil, invalid("it takes at least %d steps, more than %d", cost.Min, costMost)
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if k.loops || cost.Max > costMost {
		options = append(options, cel.CostTracking(charges{}), cel.CostLimit(costMost))
	}
	return &computed{of: e, at: at, touches: k.touches, program: sync.OnceValues(func() (cel.Program, error) {
		return env.Program(checked, options...)
	})}, nil
}

// complaint makes one sentence of what CEL has to say.
func complaint(issues *cel.Issues) error {
	if issues.Err() == nil {
		return nil
	}
	all := issues.Errors()
	if len(all) == 0 {
		return invalid("%.300s", issues.Err())
	}
	first := all[0]
	if first.Location == nil || first.Location.Line() < 0 {
		return invalid("%.300s", first.Message)
	}
	return invalid("at %d:%d: %.300s", first.Location.Line(), first.Location.Column()+1, first.Message)
}

// scope finds out what an expression touches.
type scope struct {
	set     *Compiled
	of      *Expression
	info    *ast.SourceInfo
	touches []operand
	loops   bool
}

func (s *scope) refuse(e ast.Expr, format string, args ...any) error {
	at := s.info.GetStartLocation(e.ID())
	return invalid("at %d:%d: "+format, append([]any{at.Line(), at.Column() + 1}, args...)...)
}

// walk notes the names in e that are not of loops around it.
func (s *scope) walk(e ast.Expr, loops []string) error {
	var inside []ast.Expr
	switch e.Kind() {
	case ast.IdentKind:
		if slices.Contains(loops, e.AsIdent()) {
			return nil
		}
		return s.input(e)
	case ast.SelectKind:
		operand := e.AsSelect().Operand()
		if operand.Kind() == ast.IdentKind && !slices.Contains(loops, operand.AsIdent()) {
			if name := operand.AsIdent(); s.set.views[name] != nil || s.set.expressions[name] != nil {
				return s.feature(e, name, e.AsSelect().FieldName())
			}
		}
		inside = append(inside, operand)
	case ast.CallKind:
		if e.AsCall().IsMemberFunction() {
			inside = append(inside, e.AsCall().Target())
		}
		inside = append(inside, e.AsCall().Args()...)
	case ast.ListKind:
		inside = e.AsList().Elements()
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			inside = append(inside, entry.AsMapEntry().Key(), entry.AsMapEntry().Value())
		}
	case ast.StructKind:
		return s.refuse(e, "there are no messages here")
	case ast.ComprehensionKind:
		s.loops = true
		l := e.AsComprehension()
		if v := l.IterVar(); s.set.views[v] != nil || s.set.expressions[v] != nil || s.declared(v) != nil {
			return s.refuse(l.IterRange(), "the loop calls its elements %q, as something else is called; give them another name", v)
		}
		if err := s.walk(l.IterRange(), loops); err != nil {
			return err
		}
		loops = append(loops[:len(loops):len(loops)], l.IterVar(), l.AccuVar())
		inside = append(inside, l.AccuInit(), l.LoopCondition(), l.LoopStep(), l.Result())
	}
	for _, i := range inside {
		if err := s.walk(i, loops); err != nil {
			return err
		}
	}
	return nil
}

func (s *scope) declared(input string) *Field {
	if at := slices.IndexFunc(s.of.Inputs, func(f Field) bool { return f.Name == input }); at >= 0 {
		return &s.of.Inputs[at]
	}
	return nil
}

func (s *scope) input(e ast.Expr) error {
	name := e.AsIdent()
	f := s.declared(name)
	switch {
	case f != nil:
		s.touch(operand{name: name, typ: f.Type})
		return nil
	case s.set.views[name] != nil || s.set.expressions[name] != nil:
		return s.refuse(e, "%q is no value; its features are, such as %s.name", name, name)
	}
	return s.refuse(e, "there is no input, view or expression %.100q", name)
}

func (s *scope) feature(e ast.Expr, view, feature string) error {
	if e.AsSelect().IsTestOnly() {
		return s.refuse(e, "has() is for maps; an expression that touches a null is null by itself")
	}
	column, err := s.set.column(view, feature)
	if err != nil {
		return s.refuse(e, "%s", fault.Message(err))
	}
	s.touch(operand{name: view + "." + feature, view: view, feature: feature, typ: column.Type})
	return nil
}

func (s *scope) touch(t operand) {
	if !slices.Contains(s.touches, t) {
		s.touches = append(s.touches, t)
	}
}

// types refuses what could do more than it costs. CEL counts one step for comparing lists of
// lists, or for adding a list to itself; done again and again both double the work each time.
func (s *scope) types(checked *ast.AST) error {
	var err error
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if t := checked.GetType(e.ID()); err == nil && !flat(t) {
			err = s.refuse(e, "a value is a %s, and only scalars, lists and maps of them are", t)
		}
		if err != nil || e.Kind() != ast.CallKind {
			return
		}
		call := e.AsCall()
		switch by := checked.GetOverloadIDs(e.ID()); {
		case slices.Contains(by, overloads.AddList) && !isAccumulator(call.Args()[0]):
			err = s.refuse(e, "lists can't be added")
		case call.FunctionName() == overloads.Matches:
			err = s.pattern(call.Args()[len(call.Args())-1])
		}
	}))
	return err
}

// pattern checks what a text is matched with. (cel.RegexProgramSizeLimit panics where a pattern counts: x{3}.)
func (s *scope) pattern(e ast.Expr) error {
	if e.Kind() != ast.LiteralKind {
		return s.refuse(e, "a pattern to match must be written down, not computed")
	}
	text, _ := e.AsLiteral().(types.String)
	parsed, err := syntax.Parse(string(text), syntax.Perl)
	if err != nil {
		return s.refuse(e, "%s", err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return s.refuse(e, "%s", err)
	}
	if len(program.Inst) > regexMost {
		return s.refuse(e, "the pattern has %d steps, more than %d", len(program.Inst), regexMost)
	}
	return nil
}

// isAccumulator tells whether e is what a macro's loop gathers, which expressions can't name.
func isAccumulator(e ast.Expr) bool {
	return e.Kind() == ast.IdentKind && strings.HasPrefix(e.AsIdent(), "@")
}

// flat tells whether values of a type are scalars, or lists or maps of them.
func flat(t *types.Type) bool {
	switch t.Kind() {
	case types.ListKind, types.MapKind:
		return !slices.ContainsFunc(t.Parameters(), func(p *types.Type) bool { return !isScalar(p) })
	}
	return isScalar(t)
}

func isScalar(t *types.Type) bool {
	switch t.Kind() {
	case types.BoolKind, types.IntKind, types.UintKind, types.DoubleKind, types.StringKind, types.BytesKind, types.TimestampKind, types.DurationKind:
		return true
	}
	return false
}

func celType(t row.Type) *cel.Type {
	if t.IsList() {
		return cel.ListType(celType(t.Elem()))
	}
	switch t {
	case row.Bool:
		return cel.BoolType
	case row.Int32, row.Int64:
		return cel.IntType
	case row.Float32, row.Float64:
		return cel.DoubleType
	case row.String:
		return cel.StringType
	case row.Bytes:
		return cel.BytesType
	}
	return cel.TimestampType
}

// becomes tells whether some values of a CEL type can be values of want.
func becomes(t *types.Type, want row.Type) bool {
	switch t.Kind() {
	case types.ListKind:
		return want.IsList() && becomes(t.Parameters()[0], want.Elem())
	case types.BoolKind, types.IntKind, types.UintKind, types.DoubleKind:
		return want.Numeric()
	case types.StringKind:
		return want == row.String
	case types.BytesKind:
		return want == row.Bytes
	case types.TimestampKind:
		return want == row.Timestamp
	}
	return false
}

// bounds tell CEL how large the values are that it can't know.
type bounds struct{}

func (bounds) EstimateSize(checker.AstNode) *checker.SizeEstimate {
	return &checker.SizeEstimate{Max: longest}
}

func (bounds) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

// charges are what calls cost that CEL counts as one step each, and that read a whole text.
type charges struct{}

func (charges) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	if _, isConversion := conversions[function]; !isConversion || len(args) == 0 {
		return nil
	}
	text, ok := args[0].(types.String)
	if !ok {
		return nil
	}
	cost := 1 + uint64(len(text))/10
	return &cost
}

var conversions = map[string]struct{}{
	overloads.TypeConvertInt: {}, overloads.TypeConvertUint: {}, overloads.TypeConvertDouble: {}, overloads.TypeConvertBool: {},
	overloads.TypeConvertTimestamp: {}, overloads.TypeConvertDuration: {}, overloads.TypeConvertBytes: {}, overloads.TypeConvertString: {},
}

// evaluation is what one expression sees of one entity. It is reused, by one goroutine at a time.
type evaluation struct {
	of     *computed
	values []ref.Val // for each of touches
}

// ResolveName implements cel.Activation.
func (e *evaluation) ResolveName(name string) (any, bool) {
	for i := range e.of.touches {
		if e.of.touches[i].name == name {
			return e.values[i], true
		}
	}
	return nil, false
}

// Parent implements cel.Activation.
func (*evaluation) Parent() cel.Activation { return nil }

var errLong = errors.New("a text or list is too long")

// evaluate computes k's value of those of what it touches, one each and none null. What
// can't be computed, or is no value of the feature's type, is an error.
func (e *evaluation) evaluate(k *computed, touched []row.Value) (row.Value, error) {
	e.of, e.values = k, e.values[:0]
	for _, v := range touched {
		if len(v.Text()) > longest || len(v.List()) > longest {
			return row.Value{}, errLong
		}
		e.values = append(e.values, toCEL(v))
	}
	program, err := k.program()
	if err != nil {
		return row.Value{}, err
	}
	out, _, err := program.Eval(e)
	if err != nil {
		return row.Value{}, err
	}
	return fromCEL(out, k.of.Features[k.at].Type)
}

func toCEL(v row.Value) ref.Val {
	if v.Type().IsList() {
		elements := make([]ref.Val, len(v.List()))
		for i, e := range v.List() {
			elements[i] = toCEL(e)
		}
		return types.NewRefValList(types.DefaultTypeAdapter, elements)
	}
	switch v.Type() {
	case row.Bool:
		return types.Bool(v.Bool())
	case row.Int32, row.Int64:
		return types.Int(v.Int())
	case row.Float32, row.Float64:
		return types.Double(v.Float())
	case row.String:
		return types.String(v.Text())
	case row.Bytes:
		return types.Bytes(v.Text())
	}
	return types.Timestamp{Time: v.Time()}
}

// fromCEL makes a value of type want, if v is one.
func fromCEL(v ref.Val, want row.Type) (row.Value, error) {
	switch v := v.(type) {
	case types.Bool:
		return row.Convert(row.OfBool(bool(v)), want)
	case types.Int:
		return row.Convert(row.OfInt64(int64(v)), want)
	case types.Uint:
		if v > math.MaxInt64 {
			return row.Value{}, errors.New("a uint has more than 63 bits")
		}
		return row.Convert(row.OfInt64(int64(v)), want)
	case types.Double:
		return row.Convert(row.OfFloat64(float64(v)), want)
	case types.String:
		if len(v) > longest {
			return row.Value{}, errLong
		}
		return row.Convert(row.OfString(string(v)), want)
	case types.Bytes:
		if len(v) > longest {
			return row.Value{}, errLong
		}
		return row.Convert(row.OfBytes(v), want)
	case types.Timestamp:
		return row.Convert(row.OfTime(v.Time), want)
	case traits.Lister:
		n, ok := v.Size().(types.Int)
		if !ok || n > longest {
			return row.Value{}, errLong
		}
		elements := make([]row.Value, n)
		for i := range elements {
			var err error
			if elements[i], err = fromCEL(v.Get(types.Int(i)), want.Elem()); err != nil {
				return row.Value{}, err
			}
		}
		return row.OfList(want.Elem(), elements...), nil
	}
	return row.Value{}, errors.New("it is no value of a feature")
}
