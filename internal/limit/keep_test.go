package limit

import (
	"context"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

func TestQuotasOutliveTheProcess(t *testing.T) {
	kv, err := memstore.OpenKV(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), keptPrefix+"damaged", []byte("{"), 0, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	l := []store.Limit{{Key: "caller:token:https://idp.example/#ann", Month: store.Amount{Requests: 5, Rows: 100}}, {Key: "model:m", Every: time.Hour, Burst: 100}}
	life := func(requests int, rows int64) (refused int) {
		t.Helper()
		meter := memstore.NewMeter()
		f := &serve.Function{Name: "test", Wire: func(ctx context.Context, p *serve.Process) error { return Keep(ctx, p, kv, meter) }}
		ctx, cancel := context.WithCancel(t.Context())
		p, err := f.Start(context.WithoutCancel(ctx), map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR"})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		for range requests {
			v, err := meter.Take(t.Context(), time.Now(), l, 0)
			if err != nil {
				t.Fatal(err)
			}
			if v.Why != store.Granted {
				refused++
			}
		}
		if err := meter.Add(t.Context(), time.Now(), []store.Charge{{Key: l[0].Key, Amount: store.Amount{Rows: rows}}}); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		return refused
	}
	for i, test := range []struct {
		requests int
		rows     int64
		refused  int
	}{{2, 10, 0}, {2, 90, 0}, {1, 0, 1}} { // of the third, the rows are used up
		if got := life(test.requests, test.rows); got != test.refused {
			t.Errorf("life %d: %d requests were refused, want %d", i, got, test.refused)
		}
	}
	found := 0
	for _, err := range kv.Scan(t.Context(), keptPrefix) {
		if err != nil {
			t.Fatal(err)
		}
		found++
	}
	if found != 2 {
		t.Errorf("%d counts are kept, want that of the quota and the damaged one", found)
	}
}
