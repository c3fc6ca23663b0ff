// Package monitoring is what is looked at: the dashboards for Grafana, made here of queries, and what metrics
// there are. The rules for Prometheus lie beside it (rules.yaml). Its command gen writes what others read.
package monitoring

import (
	_ "embed" // the rules
	"encoding/json"
)

// Rules are those for Prometheus, as YAML.
//
//go:embed rules.yaml
var Rules []byte

// Board is a dashboard.
type Board struct {
	UID, Title, Help string
	Variables        []Variable // beside the data source and the job
	Rows             []Row
}

// Variable is a label by which everything on a dashboard can be narrowed down: $name in queries.
type Variable struct{ Name, Metric string }

// Row is a part of a dashboard.
type Row struct {
	Title  string
	Panels []Panel
}

// Panel is one picture.
type Panel struct {
	Title  string
	Help   string // what it is good for
	Kind   string // of Grafana's: timeseries if empty, stat, bargauge
	Unit   string // of Grafana's: s, percentunit, reqps, bytes, short
	Width  int    // of 24; 0: 8
	Signed bool   // values may be below 0
	Series []Series
}

// Series are the lines of one query.
type Series struct {
	Query, Legend string
	// Rare says why there may be no data though all is well; empty: there always is.
	Rare string
}

// JSON gives the dashboard as Grafana imports it.
func (b *Board) JSON() ([]byte, error) {
	type object = map[string]any
	source := object{"type": "prometheus", "uid": "${datasource}"}
	variable := func(name, query string) object {
		return object{
			"type": "query", "name": name, "label": name, "datasource": source, "definition": query,
			"query": object{"query": query, "refId": name}, "refresh": 2, "sort": 1,
			"includeAll": true, "multi": true, "allValue": ".*", "current": object{"text": "All", "value": "$__all"},
		}
	}
	variables := []object{
		{"type": "datasource", "name": "datasource", "label": "data source", "query": "prometheus", "current": object{}},
		variable("job", "label_values(http_server_request_duration_seconds_count, job)"),
	}
	for _, v := range b.Variables {
		variables = append(variables, variable(v.Name, "label_values("+v.Metric+", "+v.Name+")"))
	}
	var panels []object
	y, id := 0, 0
	for _, row := range b.Rows {
		id++
		panels = append(panels, object{"id": id, "type": "row", "title": row.Title, "collapsed": false, "panels": []any{}, "gridPos": object{"h": 1, "w": 24, "x": 0, "y": y}})
		y++
		x := 0
		for _, p := range row.Panels {
			id++
			width := p.Width
			if width == 0 {
				width = 8
			}
			if x+width > 24 {
				x, y = 0, y+height
			}
			panels = append(panels, p.object(id, x, y, width, source))
			x += width
		}
		y += height
	}
	return json.MarshalIndent(object{
		"id": nil, "uid": b.UID, "title": b.Title, "description": b.Help, "tags": []string{"pilotlight"},
		"schemaVersion": 39, "version": 1, "editable": true, "timezone": "browser", "graphTooltip": 1, "refresh": "30s",
		"time": object{"from": "now-1h", "to": "now"}, "templating": object{"list": variables},
		"annotations": object{"list": []any{}}, "panels": panels,
		"links": []object{{"type": "dashboards", "title": "Pilotlight", "tags": []string{"pilotlight"}, "asDropdown": false, "includeVars": true, "keepTime": true}},
	}, "", " ")
}

// height is that of all panels.
const height = 8

func (p *Panel) object(id, x, y, width int, source any) map[string]any {
	type object = map[string]any
	kind := p.Kind
	options := object{}
	switch kind {
	case "", "timeseries":
		kind = "timeseries"
		options["legend"] = object{"displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": []string{"lastNotNull", "max"}}
		options["tooltip"] = object{"mode": "multi", "sort": "desc"}
	default:
		options["reduceOptions"] = object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false}
		options["orientation"] = "auto"
	}
	var targets []object
	for i, s := range p.Series {
		targets = append(targets, object{
			"refId": string(rune('A' + i)), "datasource": source, "editorMode": "code", "expr": s.Query, "legendFormat": s.Legend, "range": true,
		})
	}
	defaults := object{"unit": p.Unit}
	if !p.Signed {
		defaults["min"] = 0
	}
	if p.Unit == "percentunit" {
		defaults["max"] = 1
	}
	return object{
		"id": id, "type": kind, "title": p.Title, "description": p.Help, "datasource": source, "targets": targets, "options": options,
		"gridPos":     object{"h": height, "w": width, "x": x, "y": y},
		"fieldConfig": object{"defaults": defaults, "overrides": []any{}},
	}
}
