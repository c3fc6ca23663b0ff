package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/train"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// steps runs steps of pipelines on a bucket, one after another.
type steps struct {
	t    *testing.T
	blob store.Blob
	deps train.Deps
	log  bytes.Buffer
}

func newSteps(t *testing.T, blob store.Blob, trainers ...string) *steps {
	t.Helper()
	kv, err := memstore.OpenKV(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	online, err := memstore.OpenOnline(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	history, err := offline.Open(t.Context(), &offline.Config{Memory: 256 << 20, Dir: t.TempDir(), Cache: 1 << 30, Vectors: 1, Keep: time.Hour}, offline.Deps{Blob: blob, KV: kv, Online: online})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := history.Close(); err != nil {
			t.Error(err)
		}
	})
	return &steps{t: t, blob: blob, deps: train.Deps{
		Models: model.NewCatalog(blob, time.Minute, nil), Features: feature.NewCatalog(&feature.Config{Refresh: time.Second}, blob, nil, slog.New(slog.DiscardHandler)),
		Offline: history, Format: onnxtest.Format(t), Config: train.Config{Trainers: trainers, Most: env.Size(1 << 30)},
	}}
}

// run runs one, and gives its outputs.
func (s *steps) run(kind, with string, inputs map[string]pipeline.Artifact) (map[string]pipeline.Artifact, error) {
	s.t.Helper()
	type document struct {
		With yamlwire.Node `yaml:"with"`
	}
	docs, err := yamlwire.Read[document]("pipeline.yaml", []byte("with: "+with+"\n"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, k := range train.Kinds(s.deps) {
		if k.Name != kind {
			continue
		}
		step, err := k.New(docs[0].With)
		if err != nil {
			return nil, err
		}
		task := &pipeline.Task{
			Pipeline: "flights", Run: "1", Step: kind, Attempt: 1, Started: time.Now(), Dir: s.t.TempDir(), Log: slog.New(slog.NewTextHandler(&s.log, nil)), Blob: s.blob,
			Inputs: inputs, Outputs: map[string]pipeline.Artifact{}, Progress: func(int64, int64, string) {},
		}
		return task.Outputs, step.Run(s.t.Context(), task)
	}
	s.t.Fatalf("there is no kind %q", kind)
	return nil, nil
}

// file downloads an output.
func (s *steps) file(a pipeline.Artifact) string {
	s.t.Helper()
	b, _, err := store.ReadAll(s.t.Context(), s.blob, a.Key)
	if err == nil {
		sum := sha256.Sum256(b)
		if hex.EncodeToString(sum[:]) != a.SHA256 {
			err = fmt.Errorf("%s is not what was kept", a.Key)
		}
	}
	path := filepath.Join(s.t.TempDir(), filepath.Base(a.Key))
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return path
}

func (s *steps) value(a pipeline.Artifact, v any) {
	s.t.Helper()
	if err := json.Unmarshal(a.Value, v); err != nil {
		s.t.Fatal(err)
	}
}

const given = "carrier origin dest day_of_week sched_dep_time"

// compareTraining makes a training set of what was asked and told, compares it with what a plain join of the log and the data says, and
// trains on it, by what is built in and by Python; then the server serves what came of it.
func compareTraining(t *testing.T, y *year, log, server, bucket string, flown int) {
	t.Helper()
	python, _ := filepath.Abs("../../../.venv-flights/bin/python")
	program, _ := filepath.Abs("../trainer.py")
	s := newSteps(t, openBucket(t, bucket), "lightgbm="+python+" "+program)
	set, err := s.run("training-set", "{model: flights, last: 30d, holdout: 12h, slices: [carrier, tailnum]}", nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.log.String())
	}
	var d train.Dataset
	s.value(set["dataset"], &d)
	if d.Rows.Train+d.Rows.Holdout != int64(flown) || d.Rows.Holdout == 0 || d.Version != 1 || d.Features == nil || d.Features.Service != "flights" || len(d.Features.Views) != 7 || len(d.Inputs) != 20 {
		t.Errorf("%d flights arrived; got %+v", flown, d)
	}
	learn, held := s.file(set["train"]), s.file(set["holdout"])

	// What the model was given is in the log, and what came true in the data.
	var columns, logged []string
	for _, in := range d.Inputs {
		kind := map[string]string{"BYTES": "VARCHAR", "INT64": "BIGINT", "FP32": "FLOAT"}[in.Type.String()]
		from := "features"
		if strings.Contains(given, in.Name) {
			from = "inputs"
		}
		columns = append(columns, in.Name)
		logged = append(logged, fmt.Sprintf("CAST(%s->>'%s' AS %s) AS %[2]s", from, in.Name, kind))
	}
	for _, part := range []struct{ set, where string }{{learn, "_event < ?::TIMESTAMPTZ"}, {held, "_event >= ?::TIMESTAMPTZ"}} {
		want := fmt.Sprintf(`SELECT %s, CAST(arr_delay > 15 AS DOUBLE) AS label, _event AS event_timestamp, inputs->>'tailnum' AS tailnum FROM read_parquet('%s') l
			JOIN flights f ON _event = asked_at AND row = asked_row WHERE fate = 'flown' AND %s`, strings.Join(logged, ", "), log, part.where)
		got := fmt.Sprintf("SELECT %s, label, event_timestamp, tailnum FROM read_parquet('%s')", strings.Join(columns, ", "), part.set)
		var n, missing, extra int
		var ordered bool
		err := y.db.QueryRowContext(t.Context(), fmt.Sprintf(`SELECT (SELECT count(*) FROM (%[1]s)), (SELECT count(*) FROM (%[2]s EXCEPT ALL %[1]s)), (SELECT count(*) FROM (%[1]s EXCEPT ALL %[2]s)),
			(SELECT bool_and(event_timestamp >= before) FROM (SELECT event_timestamp, lag(event_timestamp, 1, event_timestamp) OVER () AS before FROM read_parquet('%[3]s')))`, got, want, part.set),
			d.Cut, d.Cut).Scan(&n, &missing, &extra, &ordered)
		if err != nil || n == 0 || missing != 0 || extra != 0 || !ordered {
			t.Errorf("%s: of %d rows %d are not those of a plain join, and %d of that are missing, in order: %t, %v", part.where, n, extra, missing, ordered, err)
		}
	}

	inputs := map[string]pipeline.Artifact{"data": set["dataset"], "rows": set["train"], "holdout": set["holdout"]}
	trainers := []string{"{trainer: logistic, missing_below: -99}"}
	if _, err := os.Stat(python); err == nil {
		trainers = append(trainers, "{trainer: lightgbm, options: {trees: 50, min_data_in_leaf: 20}}")
	} else {
		t.Log("SKIPPED the trainer in Python: run `make flights-venv`")
	}
	for i, with := range trainers {
		made, err := s.run("train", with, inputs)
		if err != nil {
			t.Fatalf("%s: %v\n%s", with, err, s.log.String())
		}
		var metrics map[string]float64
		s.value(made["metrics"], &metrics)
		if !(metrics["log_loss"] < .69) {
			t.Errorf("%s: got %v", with, metrics)
		}
		file, err := os.ReadFile(s.file(made["model"]))
		if err != nil {
			t.Fatal(err)
		}
		call(t, http.MethodPost, server+"/admin/v1/models/flights/versions", file)
		s.serves(y, held, s.file(made["predictions"]), fmt.Sprintf("%s/v2/models/flights/versions/%d/infer", server, i+2), &d)
	}
}

// serves asks a server about the rows of a holdout, all at once, and compares its answers with a trainer's own predictions.
func (s *steps) serves(y *year, held, predictions, url string, d *train.Dataset) {
	s.t.Helper()
	type input struct {
		Name  string          `json:"name"`
		Shape []int64         `json:"shape"`
		Type  string          `json:"datatype"`
		Data  json.RawMessage `json:"data"`
	}
	var request struct {
		Inputs []input `json:"inputs"`
	}
	for _, in := range d.Inputs {
		unknown := "NULL"
		if in.Type.String() == "FP32" {
			unknown = "-999"
		}
		var data string
		var n int64
		if err := y.db.QueryRowContext(s.t.Context(), fmt.Sprintf("SELECT to_json(list(coalesce(%s, %s)))::VARCHAR, count(*) FROM read_parquet(?)", in.Name, unknown), held).Scan(&data, &n); err != nil {
			s.t.Fatal(err)
		}
		request.Inputs = append(request.Inputs, input{in.Name, []int64{n, 1}, in.Type.String(), json.RawMessage(data)})
	}
	body, err := json.Marshal(request)
	if err != nil {
		s.t.Fatal(err)
	}
	var answer struct {
		Outputs []struct {
			Name string    `json:"name"`
			Data []float64 `json:"data"`
		} `json:"outputs"`
	}
	if err := json.Unmarshal(call(s.t, http.MethodPost, url, body), &answer); err != nil {
		s.t.Fatal(err)
	}
	if len(answer.Outputs) != 2 || answer.Outputs[0].Name != "probability" || answer.Outputs[1].Name != "label" {
		s.t.Fatalf("got other outputs than the version before had: %+v", answer.Outputs)
	}
	own := s.predictions(s.t.Context(), y, predictions)
	got := answer.Outputs[0].Data
	if len(own) != len(got) || int64(len(own)) != d.Rows.Holdout {
		s.t.Fatalf("got %d answers, %d predictions of %d rows", len(got), len(own), d.Rows.Holdout)
	}
	for i := range own {
		if math.Abs(own[i]-got[i]) > 1e-5 {
			s.t.Fatalf("row %d: the server says %v, the trainer %v", i, got[i], own[i])
		}
	}
}

func (s *steps) predictions(ctx context.Context, y *year, path string) (all []float64) {
	s.t.Helper()
	rows, err := y.db.QueryContext(ctx, "SELECT prediction FROM read_parquet(?)", path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var p float64
		if err := rows.Scan(&p); err != nil {
			s.t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return all
}
