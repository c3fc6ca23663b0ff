package feast

import "github.com/pilotlight-ml/pilotlight/internal/jsonwire"

// Push is rows that are brought: the body of /push or of /write-to-online-store.
type Push struct {
	Name string // of the push source or, of the latter, of the feature view
	To   To     // of the former
	Table
}

// To says which stores pushed rows are for.
type To uint8

// The stores.
const (
	ToOnline To = iota
	ToOffline
	ToBoth
)

// The members that are known, see jsonwire.Scanner.Object. What registry may be
// asked, and what is transformed, are settings of Feast's own server.
var (
	pushMembers  = []string{"push_source_name", "df", "to"}
	writeMembers = []string{"feature_view_name", "df"}
)

// DecodePush reads the body of /push. It must stay as it is while values are read.
func (p *Push) DecodePush(body []byte) error { return p.decode(body, pushMembers) }

// DecodeWrite reads the body of /write-to-online-store, which must stay as it is likewise.
func (p *Push) DecodeWrite(body []byte) error { return p.decode(body, writeMembers) }

func (p *Push) decode(body []byte, members []string) error {
	*p = Push{}
	s := &jsonwire.Scanner{Text: body}
	err := object(s, members, func(m int) (err error) {
		switch members[m] {
		case "df":
			return p.columns(s, "df")
		case "to":
			return p.readTo(s)
		}
		p.Name, err = text(s, members[m], "")
		return err
	})
	switch {
	case err != nil:
		return err
	case p.Name == "":
		return invalid("%s is missing or empty", members[0])
	}
	return p.even("df")
}

func (p *Push) readTo(s *jsonwire.Scanner) error {
	name, err := text(s, "to", "")
	if err != nil {
		return err
	}
	switch name {
	case "online", "": // of null
		p.To = ToOnline
	case "offline":
		p.To = ToOffline
	case "online_and_offline":
		p.To = ToBoth
	default:
		return invalid("to is %s, expected online, offline or online_and_offline", quote(name))
	}
	return nil
}
