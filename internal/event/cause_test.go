package event

import "testing"

// TestCause sees what caused an event in its extension, and nothing where nobody knows.
func TestCause(t *testing.T) {
	for _, c := range []struct {
		e    Event
		want string
	}{
		{ModelPublished.New(Published{Model: "m", Version: 2, Cause: "flights:7"}), "flights:7"},
		{ModelPublished.New(Published{Model: "m", Version: 2}), ""},
		{AliasMoved.New(Moved{Model: "m", Alias: "champion", Seq: 3, Cause: "flights:7"}), "flights:7"},
		{ModelLoaded.New(Loaded{Model: "m", Version: 2}), ""},
	} {
		_, said := c.e.Extensions()[causation]
		if got := Cause(&c.e); got != c.want || said != (c.want != "") || c.e.Validate() != nil {
			t.Errorf("%s: got the cause %q (%v), want %q; %v", c.e.Type(), got, said, c.want, c.e.Validate())
		}
	}
}
