package store_test

import (
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

// What is written as JSON is read again, and replaced by who has seen it; what is none is said, and can be replaced.
func TestJSON(t *testing.T) {
	b, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	var got map[string]int
	if _, err := store.ReadJSON(ctx, b, "x", 100, &got); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v", err)
	}
	first, err := store.WriteJSON(ctx, b, "x", map[string]int{"a": 1}, store.IfStill(""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.WriteJSON(ctx, b, "x", nil, store.IfStill("")); !fault.Is(err, fault.Conflict) {
		t.Errorf("it is there: got %v", err)
	}
	if version, err := store.ReadJSON(ctx, b, "x", 7, &got); err != nil || version != first || got["a"] != 1 {
		t.Errorf("got %v %q, %v", got, version, err)
	}
	if version, err := store.ReadJSON(ctx, b, "x", 6, &got); !fault.Is(err, fault.Internal) || version != first || !strings.Contains(err.Error(), "more than 6 bytes") {
		t.Errorf("too long: got %q, %v", version, err)
	}
	if _, err := b.Put(ctx, "x", strings.NewReader("junk"), 4, store.IfStill(first)); err != nil {
		t.Fatal(err)
	}
	version, err := store.ReadJSON(ctx, b, "x", 100, &got)
	if !fault.Is(err, fault.Internal) || fault.Message(err) != "the bucket's x is damaged" {
		t.Errorf("got %v", err)
	}
	if _, err := store.WriteJSON(ctx, b, "x", 2, store.IfStill(version)); err != nil {
		t.Error(err)
	}
	if _, err := store.WriteJSON(ctx, b, "x", make(chan int), store.Condition{}); err == nil {
		t.Error("a channel is no JSON")
	}
}
