package monitoring

import "fmt"

// rate writes how much a counter grows in a second, by labels.
func rate(by, series string) string {
	return fmt.Sprintf("sum by (%s) (rate(%s[$__rate_interval]))", by, series)
}

// quantile writes that of a histogram, by labels.
func quantile(q float64, by, metric, labels string) string {
	if by != "" {
		by += ", "
	}
	return fmt.Sprintf("histogram_quantile(%g, sum by (%sle) (rate(%s_bucket{%s}[$__rate_interval])))", q, by, metric, labels)
}

// quantiles are three of a histogram as series.
func quantiles(by, metric, labels, legend string) []Series {
	var all []Series
	for _, q := range []float64{.5, .95, .99} {
		all = append(all, Series{Query: quantile(q, by, metric, labels), Legend: fmt.Sprintf("p%g %s", q*100, legend)})
	}
	return all
}

// one is a panel's only query.
func one(query, legend string) []Series { return []Series{{Query: query, Legend: legend}} }

// rare is one that finds nothing while all is well.
func rare(query, legend, why string) []Series {
	return []Series{{Query: query, Legend: legend, Rare: why}}
}

// Boards are all dashboards.
func Boards() []Board {
	return []Board{overview(), models(), features(), loop(), gateway()}
}

const (
	job   = `job=~"$job"`
	asked = `job=~"$job", model=~"$model"`
)

// notByOTLP is why the collector knows nothing of a process's memory and time.
const notByOTLP = "only processes whose /metrics is read tell of themselves: by OTLP it is not sent"

const (
	requestSeconds = "http_server_request_duration_seconds"
	answerSeconds  = "pilotlight_inference_request_duration_seconds"
)

func overview() Board {
	return Board{
		UID: "pilotlight-overview", Title: "Pilotlight / Overview", Help: "Requests of all functions, objectives, processes, events.",
		Rows: []Row{
			{"Requests", []Panel{
				{Title: "Requests", Unit: "reqps", Series: one(rate("job", requestSeconds+"_count{"+job+"}"), "{{job}}")},
				{Title: "Failed requests", Help: "Share with a status of 500 or above.", Unit: "percentunit", Series: one(`job:http_server_errors:ratio_5m{`+job+`}`, "{{job}}")},
				{Title: "Duration", Unit: "s", Series: quantiles("job", requestSeconds, job, "{{job}}")},
				{Title: "Requests by route", Unit: "reqps", Width: 12, Series: one("topk(15, "+rate("job, http_route", requestSeconds+"_count{"+job+"}")+")", "{{job}} {{http_route}}")},
				{Title: "Answers by status", Unit: "reqps", Width: 6, Series: one(rate("http_response_status_code", requestSeconds+"_count{"+job+"}"), "{{http_response_status_code}}")},
				{Title: "Under way", Unit: "short", Width: 6, Series: one("sum by (job) (http_server_active_requests{"+job+"})", "{{job}}")},
			}},
			{"Objectives", []Panel{
				{Title: "Availability of models, 1 d", Help: "Share of requests that were answered, of those that could be: objective 99.9 %.", Kind: "bargauge", Unit: "percentunit", Width: 6, Series: one("1 - model:pilotlight_inference_errors:ratio_1d", "{{model}}")},
				{Title: "Answers in time, 1 d", Help: "Share of answers within 250 ms: objective 99 %.", Kind: "bargauge", Unit: "percentunit", Width: 6, Series: one("1 - model:pilotlight_inference_slow:ratio_1d", "{{model}}")},
				{Title: "Burn rate of errors", Help: "How many times faster than allowed the budget of 0.1 % is spent: 1 h and 6 h.", Unit: "short", Width: 6, Series: []Series{
					{Query: "model:pilotlight_inference_errors:ratio_1h / 0.001", Legend: "{{model}} 1h"}, {Query: "model:pilotlight_inference_errors:ratio_6h / 0.001", Legend: "{{model}} 6h"},
				}},
				{Title: "Burn rate of slow answers", Help: "The same of the budget of 1 %.", Unit: "short", Width: 6, Series: []Series{
					{Query: "model:pilotlight_inference_slow:ratio_1h / 0.01", Legend: "{{model}} 1h"}, {Query: "model:pilotlight_inference_slow:ratio_6h / 0.01", Legend: "{{model}} 6h"},
				}},
				{Title: "Alerts", Help: "Those of Prometheus that fire.", Unit: "short", Width: 12, Series: rare(`sum by (alertname, severity) (ALERTS{alertname=~"Pilotlight.*", alertstate="firing"})`, "{{alertname}} {{severity}}", "no alert fires")},
				{Title: "Alerts of Pilotlight's own rules", Unit: "short", Width: 12, Series: one("max by (rule, model, severity) (pilotlight_alert_active)", "{{rule}} {{model}} {{severity}}")},
			}},
			{"Processes", []Panel{
				{Title: "Instances", Unit: "short", Width: 6, Series: one("count by (job) (target_info{"+job+"})", "{{job}}")},
				{Title: "Memory", Unit: "bytes", Width: 6, Series: rare("sum by (job) (process_resident_memory_bytes{"+job+"})", "{{job}}", notByOTLP)},
				{Title: "CPUs", Unit: "short", Width: 6, Series: rare(rate("job", "process_cpu_seconds_total{"+job+"}"), "{{job}}", notByOTLP)},
				{Title: "Stages of cold starts", Help: "The mean of the processes that run now.", Unit: "s", Width: 6, Series: one(`job_stage:pilotlight_cold_start_duration_seconds:mean{`+job+`}`, "{{job}} {{stage}}")},
			}},
			{"Events", []Panel{
				{Title: "Events sent", Unit: "short", Series: rare(rate("type", "pilotlight_events_sent_total{"+job+"}"), "{{type}}", "a broker in the process needs no K_SINK")},
				{Title: "Events taken", Unit: "short", Series: one(rate("type, status", "pilotlight_events_received_total{"+job+"}"), "{{type}} {{status}}")},
				{Title: "Deliveries in the process", Unit: "short", Series: one(rate("trigger, outcome", "pilotlight_event_deliveries_total{"+job+"}"), "{{trigger}} {{outcome}}")},
				{Title: "Not delivered yet", Unit: "short", Series: one("sum by (job) (pilotlight_events_pending{"+job+"})", "{{job}}")},
				{Title: "Dead letters", Unit: "short", Series: one(rate("type, code", "pilotlight_deadletters_stored_total{"+job+"}"), "{{type}} {{code}}")},
				{Title: "Dropped", Unit: "short", Series: rare(rate("type", "pilotlight_events_dropped_total{"+job+"}"), "{{type}}", "none is dropped while the broker is there")},
			}},
		},
	}
}

func models() Board {
	return Board{
		UID: "pilotlight-models", Title: "Pilotlight / Models", Help: "How models are asked, run, remembered and loaded.",
		Variables: []Variable{{"model", answerSeconds + "_count"}},
		Rows: []Row{
			{"Requests", []Panel{
				{Title: "Requests", Unit: "reqps", Series: one(rate("model, version", answerSeconds+"_count{"+asked+"}"), "{{model}}:{{version}}")},
				{Title: "Requests by protocol", Unit: "reqps", Series: one(rate("model, protocol", answerSeconds+"_count{"+asked+"}"), "{{model}} {{protocol}}")},
				{Title: "Not answered", Unit: "reqps", Series: one(rate("model, version, error_type", answerSeconds+`_count{`+asked+`, error_type!=""}`), "{{model}}:{{version}} {{error_type}}")},
				{Title: "Duration", Unit: "s", Series: quantiles("model", answerSeconds, asked+`, error_type=""`, "{{model}}")},
				{Title: "Duration by version, p95", Unit: "s", Series: one(quantile(.95, "model, version", answerSeconds, asked+`, error_type=""`), "{{model}}:{{version}}")},
				{Title: "Duration by protocol, p95", Unit: "s", Series: one(quantile(.95, "protocol", answerSeconds, asked+`, error_type=""`), "{{protocol}}")},
				{Title: "Where the time goes", Help: "Of an answer, on average, of the versions that answer: what a shadow takes is not in it.", Unit: "s", Series: one(rate("model, version, stage", "pilotlight_inference_stage_seconds_total{"+asked+"}")+" / ignoring (stage) group_left "+rate("model, version", answerSeconds+`_count{`+asked+`, error_type=""}`), "{{model}}:{{version}} {{stage}}")},
				{Title: "Shadows", Unit: "reqps", Series: one(rate("model, version, result", "pilotlight_shadow_requests_total{"+asked+"}"), "{{model}}:{{version}} {{result}}")},
				{Title: "Failures, those of shadows too", Unit: "reqps", Series: one(rate("model, version, kind", "pilotlight_inference_failures_total{"+asked+"}"), "{{model}}:{{version}} {{kind}}")},
			}},
			{"Runs and batches", []Panel{
				{Title: "Rows", Unit: "rowsps", Series: one(rate("model, source", "pilotlight_inference_rows_total{"+asked+"}"), "{{model}} {{source}}")},
				{Title: "Rows of a run", Unit: "short", Series: one(rate("model", `pilotlight_inference_rows_total{`+asked+`, source="run"}`)+" / "+rate("model", "pilotlight_inference_runs_total{"+asked+"}"), "{{model}}")},
				{Title: "Requests in a joined run, p95", Unit: "short", Series: one(quantile(.95, "model", "pilotlight_queue_joined", asked), "{{model}}")},
				{Title: "Time of a run", Unit: "s", Series: quantiles("model", "pilotlight_inference_duration_seconds", asked, "{{model}}")},
				{Title: "Requests that wait", Unit: "short", Series: one("sum by (job) (pilotlight_queue_waiting{"+job+"})", "{{job}}")},
				{Title: "Time of waiting, of those that had to", Unit: "s", Series: quantiles("model", "pilotlight_queue_wait_seconds", asked, "{{model}}")},
				{Title: "Not run", Unit: "reqps", Series: rare(rate("job, reason", "pilotlight_queue_unserved_total{"+job+"}"), "{{job}} {{reason}}", "nobody is refused before thousands wait")},
			}},
			{"Cache", []Panel{
				{Title: "What the cache did", Unit: "reqps", Series: one(rate("model, result", "pilotlight_cache_requests_total{"+asked+"}"), "{{model}} {{result}}")},
				{Title: "Hits", Unit: "percentunit", Series: one(`job:pilotlight_cache_requests:hit_ratio_5m{`+job+`}`, "{{job}}")},
				{Title: "Memory", Unit: "bytes", Series: one("sum by (job) (pilotlight_cache_memory_bytes{"+job+"})", "{{job}}")},
				{Title: "Shared cache there", Unit: "short", Series: rare("min by (job) (pilotlight_cache_shared_up{"+job+"})", "{{job}}", "only with Redis are answers shared")},
				{Title: "Trouble with the shared cache", Unit: "short", Series: rare(rate("job, what", "pilotlight_cache_shared_failures_total{"+job+"}"), "{{job}} {{what}}", "only with Redis are answers shared")},
				{Title: "Versions that answer differently", Unit: "short", Series: one("sum by (model) (pilotlight_cache_distrusted{"+asked+"})", "{{model}}")},
			}},
			{"Loading", []Panel{
				{Title: "Loads", Unit: "short", Series: one(rate("job, outcome", "pilotlight_model_load_duration_seconds_count{"+job+"}"), "{{job}} {{outcome}}")},
				{Title: "Time of a load", Unit: "s", Series: quantiles("job", "pilotlight_model_load_duration_seconds", job, "{{job}}")},
				{Title: "Stages of loads, p95", Unit: "s", Series: one(quantile(.95, "job, stage", "pilotlight_model_load_stage_duration_seconds", job), "{{job}} {{stage}}")},
				{Title: "Sessions", Unit: "short", Series: one("sum by (job) (pilotlight_model_sessions{"+job+"})", "{{job}}")},
				{Title: "Sessions closed", Unit: "short", Series: one(rate("job, reason", "pilotlight_model_evictions_total{"+job+"}"), "{{job}} {{reason}}")},
				{Title: "Memory of models", Unit: "bytes", Series: []Series{
					{Query: "sum by (job) (pilotlight_model_memory_bytes{" + job + "})", Legend: "{{job}} sessions"},
					{Query: "sum by (job) (pilotlight_model_memory_resident_bytes{" + job + "})", Legend: "{{job}} resident"},
					{Query: "sum by (job) (pilotlight_model_cache_bytes{" + job + "})", Legend: "{{job}} on disk"},
				}},
			}},
			{"Payload log", []Panel{
				{Title: "Predictions", Unit: "short", Series: one(rate("job, result", "pilotlight_payload_predictions_total{"+job+"}"), "{{job}} {{result}}")},
				{Title: "Dropped", Help: "Share of what was to be kept.", Unit: "percentunit", Series: one(rate("job", `pilotlight_payload_predictions_total{`+job+`, result="dropped"}`)+" / ("+rate("job", `pilotlight_payload_predictions_total{`+job+`, result="made"}`)+" > 0)", "{{job}}")},
				{Title: "Memory", Unit: "bytes", Series: one("sum by (job) (pilotlight_payload_memory_bytes{"+job+"})", "{{job}}")},
				{Title: "Segments, and attempts that failed", Unit: "short", Series: []Series{
					{Query: rate("job", "pilotlight_payload_segments_total{"+job+"}"), Legend: "{{job}} written"}, {Query: rate("job", "pilotlight_payload_retries_total{"+job+"}"), Legend: "{{job}} tried again"},
				}},
				{Title: "Written", Unit: "Bps", Series: one(rate("job", "pilotlight_payload_bytes_total{"+job+"}"), "{{job}}")},
			}},
		},
	}
}

func features() Board {
	const viewed = job + `, view=~"$view"`
	return Board{
		UID: "pilotlight-features", Title: "Pilotlight / Features", Help: "What features are read, how old they are, and what comes in.",
		Variables: []Variable{{"view", "pilotlight_features_values_total"}},
		Rows: []Row{
			{"Reading", []Panel{
				{Title: "Reads", Unit: "reqps", Series: one(rate("job, outcome", "pilotlight_features_read_duration_seconds_count{"+job+"}"), "{{job}} {{outcome}}")},
				{Title: "Time of a read", Unit: "s", Series: quantiles("job", "pilotlight_features_read_duration_seconds", job, "{{job}}")},
				{Title: "Entity rows of a read", Unit: "short", Series: one(rate("job", "pilotlight_features_read_rows_total{"+job+"}")+" / ("+rate("job", "pilotlight_features_read_duration_seconds_count{"+job+"}")+" > 0)", "{{job}}")},
				{Title: "Values", Unit: "short", Series: one(rate("view, status", "pilotlight_features_values_total{"+viewed+"}"), "{{view}} {{status}}")},
				{Title: "Hit rate", Help: "Share of values that are there and not too old.", Unit: "percentunit", Series: one(`view:pilotlight_features_values:hit_ratio_5m{view=~"$view"}`, "{{view}}")},
				{Title: "Age of the oldest value of a read", Unit: "s", Series: quantiles("view", "pilotlight_features_age_seconds", viewed, "{{view}}")},
				{Title: "Age of the newest value that was read", Unit: "s", Series: one("min by (view) (pilotlight_features_newest_age_seconds{"+viewed+"})", "{{view}}")},
			}},
			{"Taking in", []Panel{
				{Title: "Rows", Unit: "rowsps", Series: one(rate("source, outcome", "pilotlight_features_rows_total{"+job+"}"), "{{source}} {{outcome}}")},
				{Title: "Rejected", Unit: "rowsps", Series: one(rate("source, reason", "pilotlight_features_rejected_total{"+job+"}"), "{{source}} {{reason}}")},
				{Title: "How old rows come", Unit: "s", Series: quantiles("source", "pilotlight_features_freshness_seconds", job, "{{source}}")},
				{Title: "Time of a write", Unit: "s", Series: quantiles("source", "pilotlight_features_write_duration_seconds", job, "{{source}}")},
				{Title: "Rows of a write, p95", Unit: "short", Series: one(quantile(.95, "source", "pilotlight_features_group", job), "{{source}}")},
				{Title: "Computed anew", Help: "States that another instance had changed meanwhile.", Unit: "short", Series: rare(rate("job", "pilotlight_features_races_total{"+job+"}"), "{{job}}", "only instances that write the same row at the same time race")},
			}},
		},
	}
}

func loop() Board {
	const of = `model=~"$model"`
	return Board{
		UID: "pilotlight-loop", Title: "Pilotlight / Feedback loop", Help: "Outcomes, quality and drift, alerts, pipelines, rollouts.",
		Variables: []Variable{{"model", "pilotlight_quality"}, {"metric", "pilotlight_quality"}},
		Rows: []Row{
			{"Quality", []Panel{
				{Title: "Quality of the last day", Unit: "short", Width: 12, Signed: true, Series: one(`max by (model, version, metric) (pilotlight_quality{`+of+`, metric=~"$metric"})`, "{{model}}:{{version}} {{metric}}")},
				{Title: "Outcomes of the last day", Unit: "short", Width: 6, Series: one("max by (model, version) (pilotlight_quality_outcomes{"+of+"})", "{{model}}:{{version}}")},
				{Title: "Outcomes that come", Unit: "short", Width: 6, Series: one(rate("result, reason", "pilotlight_feedback_outcomes_total{"+job+"}"), "{{result}} {{reason}}")},
				{Title: "Columns that have drifted", Unit: "short", Series: one(`max by (model, version) (pilotlight_drift{`+of+`, metric="drifted"})`, "{{model}}:{{version}}")},
				{Title: "Furthest moved column, PSI", Unit: "short", Series: one(`max by (model, version) (pilotlight_drift{`+of+`, metric="psi_most"})`, "{{model}}:{{version}}")},
				{Title: "Outcomes joined with predictions", Unit: "short", Series: one(rate("result", "pilotlight_feedback_joins_total{"+job+"}"), "{{result}}")},
				{Title: "Time of writing outcomes", Unit: "s", Series: quantiles("job", "pilotlight_feedback_write_duration_seconds", job, "{{job}}")},
				{Title: "Outcomes written together, p95", Unit: "short", Series: one(quantile(.95, "job", "pilotlight_feedback_group", job), "{{job}}")},
				{Title: "Damaged objects", Unit: "short", Series: one(rate("kind", "pilotlight_feedback_damaged_total{"+job+"}"), "{{kind}}")},
			}},
			{"Alerts", []Panel{
				{Title: "Active", Unit: "short", Series: one("max by (rule, model, severity) (pilotlight_alert_active)", "{{rule}} {{model}} {{severity}}")},
				{Title: "Raised and resolved", Unit: "short", Series: one(rate("rule, change", "pilotlight_alert_changes_total{"+job+"}"), "{{rule}} {{change}}")},
				{Title: "Evaluations", Unit: "short", Series: one(rate("outcome", "pilotlight_alert_evaluations_total{"+job+"}"), "{{outcome}}")},
				{Title: "Could not be told", Unit: "short", Series: rare(rate("way, then", "pilotlight_alert_failures_total{"+job+"}"), "{{way}} {{then}}", "all that are told get out")},
			}},
			{"Pipelines and rollouts", []Panel{
				{Title: "Runs that ended", Unit: "short", Series: one(rate("pipeline, state", "pilotlight_pipeline_runs_total{"+job+"}"), "{{pipeline}} {{state}}")},
				{Title: "Runs under way", Unit: "short", Series: one("sum by (job) (pilotlight_pipeline_active{"+job+"})", "{{job}}")},
				{Title: "Time of a run", Unit: "s", Series: quantiles("pipeline", "pilotlight_pipeline_run_duration_seconds", job, "{{pipeline}}")},
				{Title: "Time of a step, p95", Unit: "s", Series: one(quantile(.95, "pipeline, step", "pilotlight_pipeline_step_duration_seconds", job), "{{pipeline}} {{step}}")},
				{Title: "Events that start pipelines", Unit: "short", Series: one(rate("pipeline, verdict", "pilotlight_pipeline_events_total{"+job+"}"), "{{pipeline}} {{verdict}}")},
				{Title: "Shares of rollouts", Unit: "percentunit", Series: one("max by (model, alias, version) (pilotlight_rollout_share{"+of+"})", "{{model}} {{alias}} {{version}}")},
				{Title: "Dead letters put back", Unit: "short", Series: rare(rate("job", "pilotlight_deadletters_replayed_total{"+job+"}"), "{{job}}", "somebody has to put one back")},
			}},
		},
	}
}

func gateway() Board {
	return Board{
		UID: "pilotlight-gateway", Title: "Pilotlight / Gateway", Help: "Who is let in, limits and quotas, load that is shed.",
		Rows: []Row{
			{"Callers", []Panel{
				{Title: "Decisions", Unit: "reqps", Width: 12, Series: one(rate("job, action, outcome", "pilotlight_auth_decisions_total{"+job+"}"), "{{job}} {{action}} {{outcome}}")},
				{Title: "Limits", Unit: "reqps", Width: 12, Series: one(rate("job, outcome", "pilotlight_limit_decisions_total{"+job+"}"), "{{job}} {{outcome}}")},
				{Title: "Quotas used", Help: "The 20 models nearest to the end of theirs, and tenants with METRICS_TENANTS; 'other' is the highest of the rest.", Kind: "bargauge", Unit: "percentunit", Width: 12, Series: one("max by (scope, name) (pilotlight_limit_used{"+job+"})", "{{scope}} {{name}}")},
				{Title: "Counting alone", Help: "1 while the store of limits is away.", Unit: "short", Width: 6, Series: one("max by (job) (pilotlight_limit_local{"+job+"})", "{{job}}")},
				{Title: "Charges given up", Unit: "short", Width: 6, Series: rare(rate("job", "pilotlight_limit_uncharged_total{"+job+"}"), "{{job}}", "only while the store of limits is away for long")},
			}},
			{"Load", []Panel{
				{Title: "Let through and not answered yet", Unit: "short", Series: one("sum by (job) (pilotlight_gate_active{"+job+"})", "{{job}}")},
				{Title: "Shed", Unit: "reqps", Series: rare(rate("job, priority", "pilotlight_gate_shed_total{"+job+"}"), "{{job}} {{priority}}", "nobody is turned away before GATE_CONCURRENCY are under way")},
				{Title: "Sent to a function once more", Unit: "reqps", Series: rare(rate("job, function", "pilotlight_gate_retries_total{"+job+"}"), "{{job}} {{function}}", "only of functions behind a gateway that fail")},
			}},
			{"TLS", []Panel{
				{Title: "Certificates end in", Unit: "s", Signed: true, Series: rare("min by (job) (pilotlight_tls_expiry_timestamp_seconds{"+job+"}) - time()", "{{job}}", "only with TLS_CERT")},
				{Title: "Certificates that can't be taken over", Unit: "short", Series: rare("max by (job) (pilotlight_tls_refused{"+job+"})", "{{job}}", "only with TLS_CERT")},
				{Title: "Handshakes that failed", Unit: "short", Series: rare(rate("job", "pilotlight_tls_handshake_failures_total{"+job+"}"), "{{job}}", "only with TLS_CERT")},
			}},
		},
	}
}
