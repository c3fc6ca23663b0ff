package serve_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Whoever asks finds out the id of the trace, and so do those who read the log.
func TestTraceOfARequestIsKnown(t *testing.T) {
	both(t, func(t *testing.T, c *http.Client, _ string) {
		s := run(t, nil, routes(map[string]http.HandlerFunc{"GET /x": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, telemetry.LineFrom(r.Context()).Trace())
		}}))
		const own, trace = "my-own", "4bf92f3577b34da6a3ce929d0e0e4736"
		for name, test := range map[string]struct {
			headers []string
			is      func(id, body, told string) bool
		}{
			"a new one is the request's id": {nil, func(id, body, told string) bool { return id == body && told == "" && len(id) == 32 }},
			"beside an id of the caller": {[]string{"X-Request-Id", own}, func(id, body, told string) bool {
				return id == own && strings.HasPrefix(told, "00-"+body+"-") && len(told) == 55
			}},
			"the caller's":                         {[]string{"Traceparent", "00-" + trace + "-00f067aa0ba902b7-00"}, func(id, body, told string) bool { return id != trace && body == trace && told == "" }},
			"the caller's, beside an id":           {[]string{"X-Request-Id", own, "Traceparent", "00-" + trace + "-00f067aa0ba902b7-00"}, func(id, body, told string) bool { return id == own && body == trace && told == "" }},
			"what is none":                         {[]string{"Traceparent", "00-<script>-'; drop table-01"}, func(id, body, told string) bool { return id == body && told == "" }},
			"what is none, and an id that is none": {[]string{"Traceparent", "00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-00", "X-Request-Id", "a b"}, func(id, body, told string) bool { return body != strings.Repeat("0", 32) && id == body }},
		} {
			got := ask(t, c, http.MethodGet, s.url+"/x", nil, test.headers...)
			if !test.is(got.header.Get("X-Request-Id"), got.body, got.header.Get("Traceresponse")) {
				t.Errorf("%s: got id %q, trace %q, response %q", name, got.header.Get("X-Request-Id"), got.body, got.header.Get("Traceresponse"))
			}
			s.log.line(t, `"trace_id":"`+got.body+`"`)
		}
	})
}
