package offline

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// Freshness tells how new the rows of sources are, and when views were last brought online from history.
type Freshness struct {
	At      time.Time     `json:"at"` // when it was looked
	Sources []SourceFresh `json:"sources"`
	Views   []ViewFresh   `json:"views"`
}

// SourceFresh is how new a source is. What is not known, as there is no row or it is not said by files from elsewhere, is absent.
type SourceFresh struct {
	Name    string    `json:"name"`
	Newest  time.Time `json:"newest,omitzero"`  // the time that its newest row is of
	Known   time.Time `json:"known,omitzero"`   // when the last row of that day was known
	Written time.Time `json:"written,omitzero"` // when the last object of that day was written to the bucket, by whoever took rows in or joined them
}

// ViewFresh is when a view was materialized last.
type ViewFresh struct {
	Name         string    `json:"name"`
	Materialized time.Time `json:"materialized,omitzero"` // zero: never
}

const (
	looksAtOnce = 4
	// filesMost is how many files of a batch source are listed: of one that has more, the first ones tell.
	filesMost = 10_000
)

// Fresh looks how new all sources and views are. It reads the ends of few objects.
func (s *Store) Fresh(ctx context.Context, defs *feature.Compiled) (*Freshness, error) {
	now := time.Now().UTC()
	f := &Freshness{At: now, Sources: make([]SourceFresh, len(defs.Sources)), Views: make([]ViewFresh, len(defs.Views))}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(looksAtOnce)
	known := make([]time.Time, len(defs.Views))
	for i := range defs.Views {
		group.Go(fault.Guard(func() (err error) {
			f.Views[i].Name = defs.Views[i].Name
			f.Views[i].Materialized, known[i], err = s.materialized(ctx, &defs.Views[i])
			return err
		}))
	}
	for i := range defs.Sources {
		group.Go(fault.Guard(func() (err error) {
			f.Sources[i], err = s.sourceFresh(ctx, &defs.Sources[i], now)
			return err
		}))
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i := range defs.Sources {
		if defs.Sources[i].Path == "" {
			continue
		}
		for v := range defs.Views { // which read the files
			if defs.Views[v].Source == defs.Sources[i].Name && known[v].After(f.Sources[i].Known) {
				f.Sources[i].Known = known[v]
			}
		}
	}
	return f, nil
}

func (s *Store) sourceFresh(ctx context.Context, src *feature.Source, now time.Time) (SourceFresh, error) {
	f := SourceFresh{Name: src.Name}
	if src.Path != "" {
		n := 0
		for o, err := range s.blob.List(ctx, src.Path, "") {
			if err != nil {
				return f, fmt.Errorf("list the files of source %q: %w", src.Name, err)
			}
			if strings.HasSuffix(o.Key, ".parquet") && o.Modified.After(f.Written) {
				f.Written = o.Modified.UTC()
			}
			if n++; n >= filesMost {
				break
			}
		}
		return f, nil
	}
	newest, err := segment.FindNewest(ctx, s.blob, src.Name, now)
	if fault.Is(err, fault.NotFound) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	f.Written = newest.Written.UTC()
	if newest.Event != 0 {
		f.Newest = time.UnixMicro(newest.Event).UTC()
	}
	if newest.Created != 0 {
		f.Known = time.UnixMicro(newest.Created).UTC()
	}
	return f, nil
}

// materialized tells when a view was, and when the newest of the rows was known that it had then.
func (s *Store) materialized(ctx context.Context, v *feature.View) (at, known time.Time, err error) {
	r, o, err := s.blob.Get(ctx, materializedPrefix+v.Name, 0, -1)
	if fault.Is(err, fault.NotFound) {
		return at, known, nil
	}
	if err != nil {
		return at, known, fmt.Errorf("read what was materialized of view %q: %w", v.Name, err)
	}
	defer func() { _ = r.Close() }()
	var state checkpoint
	if err := json.NewDecoder(r).Decode(&state); err != nil {
		return at, known, fault.Wrap(fault.Internal, err, "what was materialized of view %q is damaged", v.Name)
	}
	if state.Newest != 0 {
		known = time.UnixMicro(state.Newest).UTC()
	}
	return o.Modified.UTC(), known, nil
}

// freshness answers GET /admin/v1/features/freshness.
func (s *Server) freshness(w http.ResponseWriter, r *http.Request) error {
	defs, err := s.defined.Current(r.Context())
	if err != nil {
		return err
	}
	f, err := s.store.Fresh(r.Context(), defs)
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, f)
}
