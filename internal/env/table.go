package env

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Row tells of one variable.
type Row struct {
	Name    string
	Value   string // in force, as strangers may see it
	Default string
	Source  string // FromEnvironment or FromDefault
	Owner   string // the packages that read it
	Help    string
}

// Where a value came from.
const (
	FromEnvironment = "environment"
	FromDefault     = "default"
)

// Table lists the variables of a process in the order of the structs and fields that read them.
type Table []Row

// add appends a row for each field whose variable has none yet.
func (t Table) add(environ map[string]string, fields []field) (Table, error) {
	for _, f := range fields {
		row := Row{
			Name: f.variable, Default: f.Tag.Get("default"), Source: FromDefault,
			Owner: f.owner, Help: f.Tag.Get("help"),
		}
		row.Value = f.redact(row.Default)
		if value := environ[f.variable]; value != "" {
			row.Source, row.Value = FromEnvironment, f.redact(value)
		}
		i := slices.IndexFunc(t, func(r Row) bool { return r.Name == row.Name })
		if i < 0 {
			t = append(t, row)
			continue
		}
		if t[i].Default != row.Default {
			return t, fmt.Errorf("%s has two defaults: %q in package %s and %q in package %s",
				row.Name, t[i].Default, t[i].Owner, row.Default, row.Owner)
		}
		if !slices.Contains(strings.Split(t[i].Owner, ", "), row.Owner) {
			t[i].Owner += ", " + row.Owner
		}
	}
	return t, nil
}

// Print writes the table in columns for people.
func (t Table) Print(w io.Writer) error {
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(columns, "VARIABLE\tVALUE\tFROM\tREAD BY")
	for _, r := range t {
		fmt.Fprintf(columns, "%s\t%s\t%s\t%s\n", r.Name, r.Value, r.Source, r.Owner)
	}
	return columns.Flush()
}

// Markdown writes what the variables are, not what they hold, as a table for
// docs/config.md.
func (t Table) Markdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("| variable | default | what it sets | read by |\n|---|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`, "\n", " ")
	for _, r := range t {
		fallback := ""
		if r.Default != "" {
			fallback = "`" + cell.Replace(r.Default) + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.Name, fallback, cell.Replace(r.Help), r.Owner)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Write writes the table in the format of a main's flag -config: "table" or "markdown".
func (t Table) Write(w io.Writer, format string) error {
	switch format {
	case "table":
		return t.Print(w)
	case "markdown":
		return t.Markdown(w)
	}
	return fmt.Errorf("-config is %q, expected table or markdown", format)
}
