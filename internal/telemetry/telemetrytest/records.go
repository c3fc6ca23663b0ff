package telemetrytest

import (
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"time"

	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
)

// Record is one of a log.
type Record struct {
	Time       time.Time
	Severity   logs.SeverityNumber
	Body       string
	Trace      string            // in hex; empty: none
	Span       string            // the same
	Attributes map[string]string // values of maps under a.b
	Resource   map[string]string
}

// Records gives the records of logs that were sent, in their order.
func (c *Collector) Records() []Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.records)
}

func (c *Collector) logs(w http.ResponseWriter, r *http.Request) {
	var sent collectorlogs.ExportLogsServiceRequest
	if !take(w, r, &sent) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range sent.ResourceLogs {
		of := map[string]string{}
		flatten(of, "", resource.Resource.GetAttributes())
		for _, scope := range resource.ScopeLogs {
			for _, l := range scope.LogRecords {
				record := Record{
					Time: time.Unix(0, int64(l.TimeUnixNano)), Severity: l.SeverityNumber, Body: text(l.Body), //nolint:gosec // ends in 2262
					Trace: hex.EncodeToString(l.TraceId), Span: hex.EncodeToString(l.SpanId), Attributes: map[string]string{}, Resource: of,
				}
				flatten(record.Attributes, "", l.Attributes)
				c.records = append(c.records, record)
			}
		}
	}
}

func flatten(into map[string]string, prefix string, attributes []*common.KeyValue) {
	for _, a := range attributes {
		if m := a.Value.GetKvlistValue(); m != nil {
			flatten(into, prefix+a.Key+".", m.Values)
			continue
		}
		into[prefix+a.Key] = text(a.Value)
	}
}

func text(v *common.AnyValue) string {
	switch v := v.GetValue().(type) {
	case nil:
		return ""
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	case *common.AnyValue_DoubleValue:
		return strconv.FormatFloat(v.DoubleValue, 'g', -1, 64)
	case *common.AnyValue_BoolValue:
		return strconv.FormatBool(v.BoolValue)
	default:
		return v.(interface{ String() string }).String()
	}
}
