package telemetry

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// alias is a metric by the name that another server has for it, made of one of the own: so both tell the same. It
// adds up what has the same labels once those that the other server does not know are gone.
type alias struct {
	name, help string
	kind       dto.MetricType // a counter, unless it says otherwise
	from       string
	value      func(m *dto.Metric) float64 // of what is counted; not of histograms
	labels     map[string]string           // names of labels by the own ones; those that are not here go
	values     map[string]map[string]string
	only       func(labels map[string]string) bool // leaves out series; nil: none
}

func counted(m *dto.Metric) float64 {
	if h := m.GetHistogram(); h != nil {
		return float64(h.GetSampleCount())
	}
	return m.GetCounter().GetValue()
}

func gauged(m *dto.Metric) float64 { return m.GetGauge().GetValue() }

// micros gives whole microseconds of what is in seconds.
func micros(m *dto.Metric) float64 {
	if h := m.GetHistogram(); h != nil {
		return math.Round(h.GetSampleSum() * 1e6)
	}
	return math.Round(m.GetCounter().GetValue() * 1e6)
}

// aliases are those of each server: Triton's of its user guide, "Metrics"; Feast's of its Python feature server.
var aliases = map[string][]alias{
	"triton": triton(),
	"feast":  feast(),
}

func triton() []alias {
	version := map[string]string{"model": "model", "version": "version"}
	failed := map[string]string{"model": "model", "version": "version", "error_type": "reason"}
	reasons := map[string]string{"internal": "BACKEND", "unavailable": "REJECTED", "overloaded": "REJECTED", "canceled": "CANCELED", "": "OTHER"}
	stage := func(name string) func(map[string]string) bool {
		return func(l map[string]string) bool { return l["stage"] == name }
	}
	ok := func(l map[string]string) bool { return l["error_type"] == "" }
	const requests, stages = "pilotlight_inference_request_duration_seconds", "pilotlight_inference_stage_seconds_total"
	return []alias{
		{name: "nv_inference_request_success", help: "Number of successful inference requests, all batch sizes.", from: requests, value: counted, labels: version, only: ok},
		{name: "nv_inference_request_failure", help: "Number of failed inference requests, all batch sizes.", from: requests, value: counted, labels: failed, values: map[string]map[string]string{"error_type": reasons}, only: func(l map[string]string) bool { return !ok(l) }},
		{name: "nv_inference_count", help: "Number of inferences performed (does not include cached requests).", from: "pilotlight_inference_rows_total", value: counted, labels: version, only: func(l map[string]string) bool { return l["source"] == "run" }},
		{name: "nv_inference_exec_count", help: "Number of model executions performed (does not include cached requests).", from: "pilotlight_inference_runs_total", value: counted, labels: version},
		{name: "nv_inference_request_duration_us", help: "Cumulative inference request duration in microseconds (includes cached requests).", from: requests, value: micros, labels: version, only: ok},
		{name: "nv_inference_queue_duration_us", help: "Cumulative inference queuing duration in microseconds (includes cached requests).", from: stages, value: micros, labels: version, only: stage("queue")},
		{name: "nv_inference_compute_input_duration_us", help: "Cumulative compute input duration in microseconds.", from: stages, value: micros, labels: version, only: stage("decode")},
		{name: "nv_inference_compute_infer_duration_us", help: "Cumulative compute inference duration in microseconds (does not include cached requests).", from: stages, value: micros, labels: version, only: stage("run")},
		{name: "nv_inference_compute_output_duration_us", help: "Cumulative inference compute output duration in microseconds.", from: stages, value: micros, labels: version, only: stage("encode")},
	}
}

func feast() []alias {
	const requests = "http_server_request_duration_seconds"
	endpoint := map[string]string{"http_route": "endpoint"}
	served := func(l map[string]string) bool {
		return slices.Contains([]string{"/get-online-features", "/push", "/write-to-online-store", "/materialize", "/materialize-incremental"}, l["http_route"])
	}
	statuses := map[string]string{"1": "success", "2": "success", "3": "success", "": "error"}
	return []alias{
		{name: "feast_feature_server_request_total", help: "Total number of requests to the feature server.", from: requests, value: counted, labels: map[string]string{"http_route": "endpoint", "http_response_status_code": "status"}, values: map[string]map[string]string{"http_response_status_code": statuses}, only: served},
		{name: "feast_feature_server_request_latency_seconds", help: "Latency of requests to the feature server in seconds.", kind: dto.MetricType_HISTOGRAM, from: requests, labels: endpoint, only: served},
		{name: "feast_online_features_request_total", help: "Total online feature retrieval requests.", from: "pilotlight_features_read_duration_seconds", value: counted},
		{name: "feast_online_features_status_total", help: "Count of individual feature values by retrieval status per feature view.", from: "pilotlight_features_values_total", value: counted, labels: map[string]string{"view": "feature_view", "status": "status"}, only: func(l map[string]string) bool { return l["status"] == "present" || l["status"] == "not_found" }},
		{name: "feast_feature_server_online_store_read_duration_seconds", help: "Duration of the online store read phase in seconds.", kind: dto.MetricType_HISTOGRAM, from: "pilotlight_features_read_duration_seconds"},
		{name: "feast_feature_freshness_seconds", help: "Seconds since the newest value that was read, per feature view.", kind: dto.MetricType_GAUGE, from: "pilotlight_features_newest_age_seconds", value: gauged, labels: map[string]string{"view": "feature_view"}},
	}
}

// aliased gathers what there is, and what it is called elsewhere.
type aliased struct {
	own     prometheus.Gatherer
	aliases []alias
}

// Gather implements prometheus.Gatherer.
func (a aliased) Gather() ([]*dto.MetricFamily, error) {
	families, err := a.own.Gather()
	by := make(map[string]*dto.MetricFamily, len(families))
	for _, f := range families {
		by[f.GetName()] = f
	}
	for i := range a.aliases {
		if from := by[a.aliases[i].from]; from != nil {
			if made := a.aliases[i].of(from); len(made.Metric) > 0 {
				families = append(families, made)
			}
		}
	}
	slices.SortFunc(families, func(x, y *dto.MetricFamily) int { return strings.Compare(x.GetName(), y.GetName()) })
	return families, err
}

// of makes the alias of a family.
func (a *alias) of(from *dto.MetricFamily) *dto.MetricFamily {
	kind := a.kind
	if kind == dto.MetricType_COUNTER && !strings.HasSuffix(a.name, "_total") {
		kind = dto.MetricType_UNTYPED // for OpenMetrics would add it
	}
	to := &dto.MetricFamily{Name: &a.name, Help: &a.help, Type: &kind}
	at := map[string]*dto.Metric{}
	for _, m := range from.Metric {
		own := make(map[string]string, len(m.Label))
		for _, l := range m.Label {
			own[l.GetName()] = l.GetValue()
		}
		if a.only != nil && !a.only(own) {
			continue
		}
		labels := a.labelled(own)
		key := fmt.Sprint(labels)
		sum := at[key]
		if sum == nil {
			sum = &dto.Metric{Label: labels}
			at[key] = sum
			to.Metric = append(to.Metric, sum)
		}
		a.add(sum, m, kind)
	}
	return to
}

// labelled gives the labels of a series, in their order.
func (a *alias) labelled(own map[string]string) []*dto.LabelPair {
	labels := make([]*dto.LabelPair, 0, len(a.labels))
	for from, name := range a.labels {
		value := own[from]
		if by := a.values[from]; by != nil {
			of, known := by[value]
			if !known && value != "" {
				of, known = by[value[:1]] // as a class of statuses
			}
			if !known {
				of = by[""]
			}
			value = of
		}
		labels = append(labels, &dto.LabelPair{Name: &name, Value: &value})
	}
	slices.SortFunc(labels, func(x, y *dto.LabelPair) int { return strings.Compare(x.GetName(), y.GetName()) })
	return labels
}

// add adds a series to one of the alias.
func (a *alias) add(sum, m *dto.Metric, kind dto.MetricType) {
	switch kind {
	case dto.MetricType_HISTOGRAM:
		h := m.GetHistogram()
		if sum.Histogram == nil {
			sum.Histogram = &dto.Histogram{SampleCount: new(uint64), SampleSum: new(float64)}
			for _, b := range h.Bucket {
				bound := b.GetUpperBound()
				sum.Histogram.Bucket = append(sum.Histogram.Bucket, &dto.Bucket{UpperBound: &bound, CumulativeCount: new(uint64)})
			}
		}
		*sum.Histogram.SampleCount += h.GetSampleCount()
		*sum.Histogram.SampleSum += h.GetSampleSum()
		for i, b := range h.Bucket { // all series of an instrument have the same
			*sum.Histogram.Bucket[i].CumulativeCount += b.GetCumulativeCount()
		}
	case dto.MetricType_GAUGE:
		sum.Gauge = &dto.Gauge{Value: new(max(sum.GetGauge().GetValue(), a.value(m)))}
	case dto.MetricType_COUNTER:
		sum.Counter = &dto.Counter{Value: new(sum.GetCounter().GetValue() + a.value(m))}
	default:
		sum.Untyped = &dto.Untyped{Value: new(sum.GetUntyped().GetValue() + a.value(m))}
	}
}
