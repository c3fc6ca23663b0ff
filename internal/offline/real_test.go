package offline

import (
	"net/url"
	"reflect"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// The same on S3 and Redis: what is materialized, compacted and materialized again is
// what the oracle says, and a training set is the same before and after.
func TestRealStores(t *testing.T) {
	address := func(raw string) *url.URL {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	w := manyFiles(t)
	bucket, err := s3store.OpenBlob(t.Context(), address(storetest.S3URL(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bucket.Close() }()
	for o, err := range w.blob.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		put(t, bucket, o.Key, get(t, w.blob, o.Key))
	}
	w.blob = bucket
	s := open(t, bucket)
	s.files.from = 1
	if s.online, err = redisstore.OpenOnline(t.Context(), address(storetest.RedisURL(t))); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.online.Close() }()
	if s.kv, err = redisstore.OpenKV(t.Context(), address(storetest.RedisURL(t))); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.kv.Close() }()

	plan, rows := w.plan(t), encodeAsked(t, w.ask(100), Parquet)
	before := w.train(t, s, plan, rows, Parquet)
	w.materialize(t, s, Span{})
	w.checkOnline(t, s)
	src, err := w.defs.Source("pushed")
	if err != nil {
		t.Fatal(err)
	}
	if c, err := s.Compact(t.Context(), src); err != nil || c.Joined == 0 {
		t.Fatalf("joined %+v, %v", c, err)
	}
	if after := w.train(t, s, plan, rows, Parquet); !reflect.DeepEqual(after, before) {
		t.Error("the training set is another after files were joined")
	}
	w.fillAgain(t)
	w.materialize(t, s, Span{Incremental: true})
	w.checkOnline(t, s)
}
