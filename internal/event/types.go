package event

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"time"
)

// Published is the data of ModelPublished.
type Published struct {
	Model   string    `json:"model" jsonschema:"the model's name"`
	Version int       `json:"version" jsonschema:"the number of the new version"`
	Digest  string    `json:"digest" jsonschema:"of the artifact: sha256: and 64 hexadecimal digits"`
	At      time.Time `json:"at" jsonschema:"when it was published"`
	By      string    `json:"by,omitempty" jsonschema:"who published it"`
	Cause   string    `json:"cause,omitempty" jsonschema:"the id of the event for which it was published, such as that of a pipeline's run; causationid says it, too"`
}

// ModelPublished tells of a new version of a model.
var ModelPublished = declare(Type[Published]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.model.published.v1", Source: registry, Subject: "model:version", ID: "the subject",
		Summary: "A version of a model was published; its manifest is in the bucket. predict looks the model up anew, so that the version answers at once wherever the event arrives.",
	},
	id:      func(p *Published) string { return fmt.Sprintf("%s:%d", p.Model, p.Version) },
	subject: func(p *Published) string { return fmt.Sprintf("%s:%d", p.Model, p.Version) },
	at:      func(p *Published) time.Time { return p.At },
	cause:   func(p *Published) string { return p.Cause },
})

// Moved is the data of AliasMoved.
type Moved struct {
	Model string    `json:"model" jsonschema:"the model's name"`
	Alias string    `json:"alias" jsonschema:"the alias's name"`
	Seq   int       `json:"seq" jsonschema:"the number of this move in the history of the model's aliases"`
	From  int       `json:"from,omitempty" jsonschema:"the version that the alias named before; absent: it did not exist"`
	To    int       `json:"to,omitempty" jsonschema:"the version that it names now; absent: it was removed"`
	At    time.Time `json:"at" jsonschema:"when it was moved"`
	By    string    `json:"by,omitempty" jsonschema:"who moved it"`
	Why   string    `json:"why,omitempty" jsonschema:"the reason that was given"`
	Cause string    `json:"cause,omitempty" jsonschema:"the id of the event for which it was moved, such as that of a pipeline's run; causationid says it, too"`
	// Canaries and Shadow are what the alias names beside To.
	Canaries []Share `json:"canaries,omitempty" jsonschema:"versions that answer a share of the alias's traffic now, while the rest is the version's; absent: there are none"`
	Shadow   int     `json:"shadow,omitempty" jsonschema:"the version that is asked the same behind the answers now; absent: there is none"`
}

// Share is a version's share of an alias's traffic.
type Share struct {
	Version int     `json:"version" jsonschema:"the number of the version"`
	Share   float64 `json:"share" jsonschema:"above 0 and below 1"`
}

// AliasMoved tells that an alias of a model names another version, or others beside it.
var AliasMoved = declare(Type[Moved]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.alias.moved.v1", Source: registry, Subject: "model:alias", ID: "model:alias:seq",
		Summary: "An alias of a model names another version, or none, or others beside it (then from and to may be the same): by a push, a move, a canary, a shadow, a promotion or a rollback. predict looks the model up anew and begins to load the versions, if it answers this alias.",
	},
	id:      func(m *Moved) string { return fmt.Sprintf("%s:%s:%d", m.Model, m.Alias, m.Seq) },
	subject: func(m *Moved) string { return m.Model + ":" + m.Alias },
	at:      func(m *Moved) time.Time { return m.At },
	cause:   func(m *Moved) string { return m.Cause },
})

// Divided is the data of TrafficMoved.
type Divided struct {
	Service    string    `json:"service" jsonschema:"the name of the Knative service"`
	Generation int64     `json:"generation" jsonschema:"of the service, with this change"`
	Model      string    `json:"model" jsonschema:"the name of the model that is pinned to it"`
	Alias      string    `json:"alias" jsonschema:"the alias that it follows"`
	Seq        int       `json:"seq" jsonschema:"the number of the alias's move that is carried out"`
	Parts      []Part    `json:"parts" jsonschema:"who has the traffic now"`
	At         time.Time `json:"at" jsonschema:"when it was changed"`
}

// Part is a share of a service's traffic.
type Part struct {
	Revision string `json:"revision,omitempty" jsonschema:"the name of the revision; absent: the newest one"`
	Version  int    `json:"version" jsonschema:"the number of the version that it answers with"`
	Percent  int    `json:"percent" jsonschema:"from 0 to 100"`
}

// TrafficMoved tells that the traffic of a pinned model's service was divided anew.
var TrafficMoved = declare(Type[Divided]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.traffic.moved.v1", Source: registry, Subject: "model:alias", ID: "service:generation", Outbound: true,
		Summary: "The traffic of the Knative service of a pinned model was divided anew, to do what its alias says. Nothing here reacts to it: it is for whoever watches.",
	},
	id:      func(d *Divided) string { return fmt.Sprintf("%s:%d", d.Service, d.Generation) },
	subject: func(d *Divided) string { return d.Model + ":" + d.Alias },
	at:      func(d *Divided) time.Time { return d.At },
})

// Loaded is the data of ModelLoaded.
type Loaded struct {
	Model        string    `json:"model" jsonschema:"the model's name"`
	Version      int       `json:"version" jsonschema:"the number of the version"`
	Digest       string    `json:"digest" jsonschema:"of the artifact: sha256: and 64 hexadecimal digits"`
	Instance     string    `json:"instance" jsonschema:"the instance that loaded it"`
	Why          string    `json:"why" jsonschema:"request, alias, pinned, or hot: other instances were asked for it"`
	Bytes        int64     `json:"bytes" jsonschema:"of memory that it takes"`
	Milliseconds int64     `json:"milliseconds" jsonschema:"that it took to load"`
	At           time.Time `json:"at" jsonschema:"when it was there"`
}

// ModelLoaded tells that an instance has a version in memory.
var ModelLoaded = declare(Type[Loaded]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.model.loaded.v1", Source: registry, Subject: "model:version", ID: "model:version:instance:at", Outbound: true,
		Summary: "An instance of predict has a version in memory. Nothing here reacts to it: it is for whoever watches.",
	},
	id:      func(l *Loaded) string { return idOf(l.Model, l.Version, l.Instance, l.At) },
	subject: func(l *Loaded) string { return fmt.Sprintf("%s:%d", l.Model, l.Version) },
	at:      func(l *Loaded) time.Time { return l.At },
})

// Evicted is the data of ModelEvicted.
type Evicted struct {
	Model        string    `json:"model" jsonschema:"the model's name"`
	Version      int       `json:"version" jsonschema:"the number of the version"`
	Digest       string    `json:"digest" jsonschema:"of the artifact: sha256: and 64 hexadecimal digits"`
	Instance     string    `json:"instance" jsonschema:"the instance that had it"`
	Why          string    `json:"why" jsonschema:"memory: others needed it; idle: nobody used it for long; unload: somebody wished it; shutdown"`
	Bytes        int64     `json:"bytes" jsonschema:"of memory that it took"`
	Milliseconds int64     `json:"milliseconds" jsonschema:"that it was there"`
	At           time.Time `json:"at" jsonschema:"when it was gone"`
}

// ModelEvicted tells that an instance no longer has a version in memory.
var ModelEvicted = declare(Type[Evicted]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.model.evicted.v1", Source: registry, Subject: "model:version", ID: "model:version:instance:at", Outbound: true,
		Summary: "An instance of predict no longer has a version in memory. Nothing here reacts to it: it is for whoever watches.",
	},
	id:      func(e *Evicted) string { return idOf(e.Model, e.Version, e.Instance, e.At) },
	subject: func(e *Evicted) string { return fmt.Sprintf("%s:%d", e.Model, e.Version) },
	at:      func(e *Evicted) time.Time { return e.At },
})

func idOf(model string, version int, instance string, at time.Time) string {
	return fmt.Sprintf("%s:%d:%s:%d", model, version, instance, at.UnixNano())
}

// registry is the source of events about models.
const registry = "/pilotlight/models"

// Applied is the data of FeaturesApplied.
type Applied struct {
	Version int       `json:"version" jsonschema:"the number of the new version of the definitions"`
	At      time.Time `json:"at" jsonschema:"when it was made"`
	By      string    `json:"by,omitempty" jsonschema:"who made it"`
}

// FeaturesApplied tells of a new version of the feature definitions.
var FeaturesApplied = declare(Type[Applied]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.features.applied.v1", Source: features, Subject: "none", ID: "the version", Outbound: true,
		Summary: "The feature definitions have a new version; it is in the bucket. Whoever uses them looks at them anew.",
	},
	id:      func(a *Applied) string { return strconv.Itoa(a.Version) },
	subject: func(*Applied) string { return "" },
	at:      func(a *Applied) time.Time { return a.At },
})

// features is the source of events about features.
const features = "/pilotlight/features"

// Served is the data of FeaturesServed.
type Served struct {
	Instance string    `json:"instance" jsonschema:"the instance that served them"`
	At       time.Time `json:"at" jsonschema:"when they were sent"`
	Vectors  []Vector  `json:"vectors" jsonschema:"one for each row"`
}

// Vector is the features that a model was given for one row of a request.
type Vector struct {
	Model       string                     `json:"model" jsonschema:"the model's name"`
	Version     int                        `json:"version" jsonschema:"the model's version"`
	Service     string                     `json:"service" jsonschema:"the feature service that the version names"`
	Definitions int                        `json:"definitions" jsonschema:"the version of the feature definitions by which they were read"`
	Known       time.Time                  `json:"known" jsonschema:"when the online store was read"`
	At          time.Time                  `json:"at" jsonschema:"the moment that they were asked for; mostly the same"`
	Given       map[string]json.RawMessage `json:"given" jsonschema:"what the caller brought: join keys and inputs of expressions, by their names"`
	Features    map[string]Cell            `json:"features" jsonschema:"what was read and computed, by view:feature, without defaults"`
}

// Cell is one value of a Vector.
type Cell struct {
	Value   json.RawMessage `json:"value" jsonschema:"null where there is none"`
	Status  int             `json:"status" jsonschema:"1 present, 2 null, 3 not found, 4 outside the view's TTL, 0 not computable; the numbers are Feast's"`
	Event   time.Time       `json:"event,omitzero" jsonschema:"the time that the value is of; of expressions there is none"`
	Version int             `json:"version" jsonschema:"of the view or expression"`
}

// FeaturesServed brings a sample of what models were given.
var FeaturesServed = declare(Type[Served]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.features.served.v1", Source: features, Subject: "none", ID: "instance:at",
		Summary: "A sample of the features that models were given (FEATURE_SAMPLE). features writes them to a log, by which the skew check compares them with what history says.",
	},
	id:      func(s *Served) string { return fmt.Sprintf("%s:%d", s.Instance, s.At.UnixNano()) },
	subject: func(*Served) string { return "" },
	at:      func(s *Served) time.Time { return s.At },
})

// Skewed is the data of FeaturesSkewed.
type Skewed struct {
	From     time.Time `json:"from" jsonschema:"the beginning of the time in which the vectors were served"`
	To       time.Time `json:"to" jsonschema:"its end"`
	Vectors  int       `json:"vectors" jsonschema:"how many of them were compared"`
	Features []Skew    `json:"features" jsonschema:"those that differed more often than SKEW_ALARM allows, the worst first"`
}

// Skew is how often a feature was served otherwise than history has it.
type Skew struct {
	Feature    string         `json:"feature" jsonschema:"view:feature"`
	Compared   int            `json:"compared" jsonschema:"values that were compared"`
	Mismatched int            `json:"mismatched" jsonschema:"those that differed"`
	Kinds      map[string]int `json:"kinds" jsonschema:"how many of them in which way: late, missing, expired, ahead, version, real"`
}

// FeaturesSkewed is the alarm of the skew check.
var FeaturesSkewed = declare(Type[Skewed]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.features.skewed.v1", Source: features, Subject: "none", ID: "to, in microseconds since 1970",
		Summary: "Models were given features that differ from what a training set would have of the same moments. pipeline starts the pipelines that say so.",
	},
	id:      func(s *Skewed) string { return strconv.FormatInt(s.To.UnixMicro(), 10) },
	subject: func(*Skewed) string { return "" },
	at:      func(s *Skewed) time.Time { return s.To },
})

// Raised is the data of AlertRaised.
type Raised struct {
	ID          string            `json:"id" jsonschema:"of this time of being raised; dev.pilotlight.alert.resolved.v1 has the same"`
	Rule        string            `json:"rule" jsonschema:"the rule's name"`
	Model       string            `json:"model" jsonschema:"the model's name"`
	Version     string            `json:"version,omitempty" jsonschema:"the number of the model's version; absent: the metric is not of a version"`
	Slice       map[string]string `json:"slice,omitempty" jsonschema:"the values of columns that it is about; absent: everything"`
	Metric      string            `json:"metric" jsonschema:"what was measured"`
	Column      string            `json:"column,omitempty" jsonschema:"the column that the metric is of"`
	Value       float64           `json:"value" jsonschema:"of the metric; times are in seconds"`
	Low         *float64          `json:"low,omitempty" jsonschema:"the lower bound of its confidence interval; absent: it has none"`
	High        *float64          `json:"high,omitempty" jsonschema:"the upper bound"`
	Count       int64             `json:"count" jsonschema:"rows that the value is of"`
	Side        string            `json:"side" jsonschema:"below or above: where of the threshold it is"`
	Threshold   float64           `json:"threshold" jsonschema:"of the rule"`
	Window      string            `json:"window" jsonschema:"how far back the rule looks, as 7d or 1h30m"`
	Severity    string            `json:"severity" jsonschema:"page or ticket"`
	Description string            `json:"description,omitempty" jsonschema:"of the rule"`
	Summary     string            `json:"summary" jsonschema:"a sentence for people"`
	Examples    []Example         `json:"examples,omitempty" jsonschema:"predictions that show it, that which shows it best first"`
	Since       time.Time         `json:"since" jsonschema:"when it was first found beyond the threshold"`
	At          time.Time         `json:"at" jsonschema:"when it was raised"`
}

// Example is a row of a prediction that shows something.
type Example struct {
	Prediction string `json:"prediction" jsonschema:"its id"`
	Row        int32  `json:"row,omitempty" jsonschema:"the number of the row, from 0 on"`
}

// String is the id and, unless it is the first, the row: order-7#3.
func (e Example) String() string {
	if e.Row == 0 {
		return e.Prediction
	}
	return e.Prediction + "#" + strconv.Itoa(int(e.Row))
}

// AlertRaised tells that a rule finds a model beyond its threshold.
var AlertRaised = declare(Type[Raised]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.alert.raised.v1", Source: alerts, Subject: "rule:model:version", ID: "the alert's, made of rule, model, version, slice and since: the same alert told twice is the same event",
		Summary: "An alert rule finds a model, a version or a slice of it beyond its threshold. It is told once, and then that it is resolved. pipeline starts the pipelines that say so.",
	},
	id:      func(r *Raised) string { return r.ID },
	subject: func(r *Raised) string { return r.Rule + ":" + r.Model + ":" + r.Version },
	at:      func(r *Raised) time.Time { return r.At },
})

// Resolved is the data of AlertResolved.
type Resolved struct {
	ID          string            `json:"id" jsonschema:"of the alert: dev.pilotlight.alert.raised.v1 had the same"`
	Rule        string            `json:"rule" jsonschema:"the rule's name"`
	Model       string            `json:"model" jsonschema:"the model's name"`
	Version     string            `json:"version,omitempty" jsonschema:"the number of the model's version; absent: the metric is not of a version"`
	Slice       map[string]string `json:"slice,omitempty" jsonschema:"the values of columns that it is about; absent: everything"`
	Metric      string            `json:"metric" jsonschema:"what was measured"`
	Column      string            `json:"column,omitempty" jsonschema:"the column that the metric is of"`
	Why         string            `json:"why" jsonschema:"recovered: the value is back; no_data: there was none for long; rule_removed, rule_changed: the rule is gone, or about something else"`
	Value       float64           `json:"value" jsonschema:"of the metric as it was last known; times are in seconds"`
	Low         *float64          `json:"low,omitempty" jsonschema:"the lower bound of its confidence interval; absent: it has none"`
	High        *float64          `json:"high,omitempty" jsonschema:"the upper bound"`
	Count       int64             `json:"count" jsonschema:"rows that the value is of"`
	Side        string            `json:"side" jsonschema:"below or above: where of the threshold it was"`
	Threshold   float64           `json:"threshold" jsonschema:"of the rule"`
	Window      string            `json:"window" jsonschema:"how far back the rule looks, as 7d or 1h30m"`
	Severity    string            `json:"severity" jsonschema:"page or ticket"`
	Description string            `json:"description,omitempty" jsonschema:"of the rule"`
	Summary     string            `json:"summary" jsonschema:"a sentence for people"`
	Since       time.Time         `json:"since" jsonschema:"when it was first found beyond the threshold"`
	At          time.Time         `json:"at" jsonschema:"when it was resolved"`
}

// AlertResolved tells that an alert is over.
var AlertResolved = declare(Type[Resolved]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.alert.resolved.v1", Source: alerts, Subject: "rule:model:version", ID: "the alert's, and :resolved", Outbound: true,
		Summary: "An alert that was raised is over: the value is back, there was no data for long, or the rule is gone. Nothing here reacts to it: it is for whoever watches.",
	},
	id:      func(r *Resolved) string { return r.ID + ":resolved" },
	subject: func(r *Resolved) string { return r.Rule + ":" + r.Model + ":" + r.Version },
	at:      func(r *Resolved) time.Time { return r.At },
})

// alerts is the source of events about alerts.
const alerts = "/pilotlight/alerts"

// Landed is the data of FileLanded.
type Landed struct {
	Source string    `json:"source" jsonschema:"the first part of the file's name below landing/"`
	File   string    `json:"file" jsonschema:"where it lies in the bucket"`
	Bytes  int64     `json:"bytes" jsonschema:"its size"`
	Digest string    `json:"digest" jsonschema:"of the file: sha256: and 64 hexadecimal digits"`
	At     time.Time `json:"at" jsonschema:"when it was there"`
}

// FileLanded tells of a file that somebody put.
var FileLanded = declare(Type[Landed]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.file.landed.v1", Source: "/pilotlight/landing", Subject: "source", ID: "the file and its digest",
		Summary: "A file came by `PUT /landing/{source}/{file}` and is in the bucket. A pipeline may name it as what starts it; its steps look for files themselves, so that one whose event is lost, or that came into the bucket by other ways, is taken by the next run.",
	},
	id:      func(l *Landed) string { return l.File + "@" + l.Digest },
	subject: func(l *Landed) string { return l.Source },
	at:      func(l *Landed) time.Time { return l.At },
})

// Ticked is the data of Tick.
type Ticked struct {
	Job string `json:"job" jsonschema:"what it is time for: sweep-deadletters, tend-features, sweep-feedback, evaluate-alerts, tend-pipelines"`
	// At is as of when it is done, where what happened then happens again; zero: now.
	At time.Time `json:"at,omitzero" jsonschema:"as of when evaluate-alerts looks back, such as in a replay; now, without"`
}

// Tick tells that it is time for something: functions that may not run for
// days have no clock of their own.
var Tick = declare(Type[Ticked]{
	Declaration: &Declaration{
		Name: "dev.knative.sources.ping", Foreign: true, Subject: "none", ID: "a random one",
		Source:  "the PingSource's path in the Kubernetes API",
		Summary: "It is time for a job, by the schedule of a PingSource in triggers/.",
	},
})

// Rows is the data of FeaturesObserved.
type Rows struct {
	Source string                       `json:"source" jsonschema:"the name of the source, as it is defined, that the rows are of"`
	Rows   []map[string]json.RawMessage `json:"rows" jsonschema:"values by the names of the source's columns: timestamps in RFC 3339 or as seconds since 1970, bytes in base64; a column that is left out is null, and one that the source does not have is skipped"`
}

// FeaturesObserved brings rows of a source of features.
var FeaturesObserved = declare(Type[Rows]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.features.observed.v1", Source: features, Subject: "the source's name",
		ID: "any; `pilotlight` makes it of the data. The same source and id again is the same event, and counts once",
		Summary: "Something was observed that features are made of. Anybody may send it, with a source of their own. It is accepted once the rows are in the log and in the views of the source; " +
			"rows that are not what the source's definition demands are kept aside with the reason.",
	},
	id:      hashOf[Rows],
	subject: func(r *Rows) string { return r.Source },
	at:      func(*Rows) time.Time { return time.Time{} }, // rows have their own
})

// hashOf makes an id of an event's data.
func hashOf[T any](data *T) string {
	b, _ := json.Marshal(data) // New has done it before
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// Outcomes is the data of OutcomeObserved.
type Outcomes struct {
	Outcomes []json.RawMessage `json:"outcomes" jsonschema:"each an object as POST /feedback takes it: prediction, and row where the prediction has several, or model, entity and at (when it was made); value, a boolean, a number or a string; time, when it came true; id, the sender's own"`
}

// OutcomeObserved brings what came true of predictions.
var OutcomeObserved = declare(Type[Outcomes]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.outcome.observed.v1", Source: outcomes, Subject: "none",
		ID: "any; `pilotlight` makes it of the data. The same source and id again is the same event, and each of its outcomes counts once, as does one with an id of its own, whatever events of the source it comes in",
		Summary: "It is known what came true of predictions. Anybody may send it, with a source of their own. feedback accepts it once the outcomes are durable; " +
			"those that can't be read are kept aside with the reason.",
	},
	id:      hashOf[Outcomes],
	subject: func(*Outcomes) string { return "" },
	at:      func(*Outcomes) time.Time { return time.Time{} }, // outcomes have their own
})

// outcomes is the source of events about what came true.
const outcomes = "/pilotlight/outcomes"

// PredictionMade answers an event that was a request for inference.
var PredictionMade = declareReply(&Declaration{
	Name: "dev.pilotlight.prediction.made.v1", Source: predictions, Subject: "model:version", Outbound: true, ID: replyID,
	Summary: "An event that was posted to .../infer or ...:predict was answered. The data is the answer as the same request without an event gets it, JSON or bytes by the content type; " +
		"`causationid` is the id of the request.",
})

// Failed is the data of PredictionFailed.
type Failed struct {
	Error  string `json:"error" jsonschema:"what was wrong, in one sentence"`
	Status int    `json:"status" jsonschema:"the HTTP status that the event would have got if it had come alone: 429 and from 500 on it may be sent again"`
}

// PredictionFailed stands in an answered batch for an event that could not be answered.
var PredictionFailed = declareReply(&Declaration{
	Name: "dev.pilotlight.prediction.failed.v1", Source: predictions, Subject: "model, or model:version as it was asked", Outbound: true, ID: replyID,
	Summary: "An event in a batch that was posted to .../infer or ...:predict could not be answered; one that comes alone is answered by an HTTP status instead. `causationid` is the id of the request.",
	Data:    reflect.TypeFor[Failed](),
})

// Logged is the data of PredictionsLogged.
type Logged struct {
	Segment string    `json:"segment" jsonschema:"where it lies in the bucket"`
	Rows    int       `json:"rows" jsonschema:"rows of predictions in it"`
	Bytes   int       `json:"bytes" jsonschema:"its size"`
	From    time.Time `json:"from" jsonschema:"when the first of them was answered"`
	Until   time.Time `json:"until" jsonschema:"when the last of them was"`
}

// PredictionsLogged tells of a segment of the payload log.
var PredictionsLogged = declare(Type[Logged]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.predictions.logged.v1", Source: predictions, Subject: "none", ID: "the segment", Outbound: true,
		Summary: "Predictions were written to the bucket. The event is a claim check: `dataref` is the key of the Parquet object that holds them. Nothing here reacts to it yet: it is for whoever watches.",
	},
	id:      func(l *Logged) string { return l.Segment },
	subject: func(*Logged) string { return "" },
	at:      func(l *Logged) time.Time { return l.Until },
})

// Begun is the data of PipelineStarted.
type Begun struct {
	Pipeline string    `json:"pipeline" jsonschema:"the pipeline's name"`
	Run      string    `json:"run" jsonschema:"the run's id; a pipeline's runs sort by it in the order of time"`
	Version  int       `json:"version" jsonschema:"of the pipeline's definition"`
	At       time.Time `json:"at" jsonschema:"when it was started"`
	By       string    `json:"by,omitempty" jsonschema:"who started it"`
	Cause    string    `json:"cause,omitempty" jsonschema:"the id of the event that started it; causationid says it, too"`
}

// PipelineStarted tells of a run of a pipeline.
var PipelineStarted = declare(Type[Begun]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.pipeline.started.v1", Source: pipelines, Subject: "pipeline", ID: "pipeline:run, which is the cause of all that the run does",
		Summary: "A run of a pipeline was started, by an event, by time or by hand. pipeline does what the run's steps say; where that takes longer than one event should, the same event is sent again.",
	},
	id:      func(b *Begun) string { return b.Pipeline + ":" + b.Run },
	subject: func(b *Begun) string { return b.Pipeline },
	at:      func(b *Begun) time.Time { return b.At },
	cause:   func(b *Begun) string { return b.Cause },
})

// Try is the data of StepRequested.
type Try struct {
	Pipeline string    `json:"pipeline" jsonschema:"the pipeline's name"`
	Run      string    `json:"run" jsonschema:"the run's id"`
	Step     string    `json:"step" jsonschema:"the step's name"`
	Attempt  int       `json:"attempt" jsonschema:"which time it is tried, from 1"`
	At       time.Time `json:"at" jsonschema:"when it was asked for"`
}

// StepRequested asks for one try of a step.
var StepRequested = declare(Type[Try]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.pipeline.step.requested.v1", Source: pipelines, Subject: "pipeline:step", ID: "pipeline:run:step:attempt", Outbound: true,
		Summary: "A step of a pipeline is to be run in a process or a job of its own. It does not go through the broker: who runs the step is given it as a file (PIPELINE_STEP).",
	},
	id:      func(t *Try) string { return t.id() },
	subject: func(t *Try) string { return t.Pipeline + ":" + t.Step },
	at:      func(t *Try) time.Time { return t.At },
	cause:   func(t *Try) string { return t.Pipeline + ":" + t.Run },
})

// id names one try of one step.
func (t *Try) id() string { return fmt.Sprintf("%s:%s:%s:%d", t.Pipeline, t.Run, t.Step, t.Attempt) }

// StepFinished tells that the result of a try is in the bucket.
var StepFinished = declare(Type[Try]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.pipeline.step.finished.v1", Source: pipelines, Subject: "pipeline:step", ID: "pipeline:run:step:attempt",
		Summary: "A step of a pipeline that ran in a process or a job of its own has ended, well or not; its result is in the bucket. pipeline goes on with the run.",
	},
	id:      func(t *Try) string { return t.id() },
	subject: func(t *Try) string { return t.Pipeline + ":" + t.Step },
	at:      func(t *Try) time.Time { return t.At },
	cause:   func(t *Try) string { return t.Pipeline + ":" + t.Run },
})

// Ended is the data of PipelineEnded.
type Ended struct {
	Pipeline string    `json:"pipeline" jsonschema:"the pipeline's name"`
	Run      string    `json:"run" jsonschema:"the run's id"`
	State    string    `json:"state" jsonschema:"succeeded; refused: a step found a good reason not to go on; failed; canceled"`
	Step     string    `json:"step,omitempty" jsonschema:"the step at which it ended, where that was not the last"`
	Why      string    `json:"why,omitempty" jsonschema:"the reason, in a sentence"`
	At       time.Time `json:"at" jsonschema:"when it ended"`
}

// PipelineEnded tells how a run of a pipeline ended.
var PipelineEnded = declare(Type[Ended]{
	Declaration: &Declaration{
		Name: "dev.pilotlight.pipeline.ended.v1", Source: pipelines, Subject: "pipeline:state", ID: "pipeline:run:ended",
		Summary: "A run of a pipeline has ended. pipeline starts other pipelines by it, where they say so.",
	},
	id:      func(e *Ended) string { return e.Pipeline + ":" + e.Run + ":ended" },
	subject: func(e *Ended) string { return e.Pipeline + ":" + e.State },
	at:      func(e *Ended) time.Time { return e.At },
	cause:   func(e *Ended) string { return e.Pipeline + ":" + e.Run },
})

// pipelines is the source of events about pipelines.
const pipelines = "/pilotlight/pipelines"

const (
	// predictions is the source of events about answers.
	predictions = "/pilotlight/predictions"
	replyID     = "made of the type, the model as it was asked, and the source and id of the request: a request that comes twice is answered by the same id"
)
