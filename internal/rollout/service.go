package rollout

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
)

// service is a Knative service as the API server gave it. What is not named here stays in raw as it is, so that nothing is lost
// of what newer ones have.
type service struct {
	raw map[string]any

	Metadata struct {
		Name        string            `json:"name"`
		Generation  int64             `json:"generation"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Template struct {
			Spec struct {
				Containers []struct {
					Env []struct{ Name, Value string } `json:"env"`
				} `json:"containers"`
			} `json:"spec"`
		} `json:"template"`
		Traffic traffic `json:"traffic"`
	} `json:"spec"`
	Status struct {
		ObservedGeneration        int64  `json:"observedGeneration"`
		LatestCreatedRevisionName string `json:"latestCreatedRevisionName"`
		LatestReadyRevisionName   string `json:"latestReadyRevisionName"`
		Conditions                []struct{ Type, Status, Message string }
	} `json:"status"`
}

// target is a share of a service's traffic.
type target struct {
	RevisionName   string `json:"revisionName,omitempty"`
	LatestRevision bool   `json:"latestRevision"` // whichever revision is the newest that is ready
	Percent        int64  `json:"percent"`
	Tag            string `json:"tag,omitempty"`
}

type traffic []target

const (
	pinVariable = "MODEL_PINNED"
	// annotation holds the traffic as it was last given by us, behind the number of the alias's move that it carries out. So a change by
	// somebody else shows.
	annotation = "pilotlight.dev/traffic"
	// standing is the tag of the revision that answers whatever the alias's own version is.
	standing = model.Champion
)

// tag is that of the revision of a version.
func tag(version int) string { return "v" + strconv.Itoa(version) }

func readService(b []byte) (*service, error) {
	s := &service{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err := d.Decode(&s.raw)
	if err == nil {
		err = json.Unmarshal(b, s)
	}
	if err == nil && (s.Metadata.Name == "" || len(s.Spec.Template.Spec.Containers) == 0) {
		err = fmt.Errorf("it has no name or no container")
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "Kubernetes answered with no Knative service")
	}
	return s, nil
}

// pin is the value of MODEL_PINNED in the template.
func (s *service) pin() string {
	for _, e := range s.Spec.Template.Spec.Containers[0].Env {
		if e.Name == pinVariable {
			return e.Value
		}
	}
	return ""
}

// newest gives the revision of the template, once it is ready, or says what keeps it.
func (s *service) newest() (revision, waiting string, failed bool) {
	created := s.Status.LatestCreatedRevisionName
	for _, c := range s.Status.Conditions {
		if c.Type != "ConfigurationsReady" || s.Status.ObservedGeneration != s.Metadata.Generation {
			continue
		}
		switch {
		case c.Status == "True" && created == s.Status.LatestReadyRevisionName && created != "":
			return created, "", false
		case c.Status == "False":
			return "", c.Message, true
		}
	}
	return "", "a new revision of the service " + s.Metadata.Name + " is on its way", false
}

// String writes what of it matters.
func (t traffic) String() string {
	var all []string
	for _, e := range t {
		name := e.RevisionName
		if e.LatestRevision || name == "" {
			name = "@latest"
		}
		all = append(all, fmt.Sprintf("%s=%d", name, e.Percent))
	}
	return strings.Join(all, " ")
}

func (t traffic) tagged(tag string) *target {
	if i := slices.IndexFunc(t, func(e target) bool { return e.Tag == tag }); i >= 0 {
		return &t[i]
	}
	return nil
}

// noted reads the annotation.
func (s *service) noted() (move int, given string) {
	number, given, _ := strings.Cut(s.Metadata.Annotations[annotation], " ")
	move, _ = strconv.Atoi(number)
	return move, given
}

// edit is a change of a service.
type edit struct {
	pin     string
	traffic traffic
}

// carried tells how far a service has followed its alias.
type carried struct {
	done    bool
	moved   bool   // just now
	why     string // it is not done
	failed  bool   // a version's revision can't be started
	foreign bool   // somebody else divides the traffic
}

// wish is what an alias names.
type wish struct {
	version  int
	canaries []model.Canary
	move     int // the number of its last one
}

var latest = traffic{{LatestRevision: true, Percent: 100}}

// next decides what is to be changed of a service so that it does what the alias of a model says; nil: nothing for now.
//
// At rest the template pins the model, whose pods answer with the alias's own version, and all traffic goes to the newest revision, so
// that deployments do what they do everywhere. A canary has a revision of its own, which answers with that version alone: its
// template is put into the service, and when its first pod is ready, traffic is given by percent, while the revision from before
// stands beside it. When no canary is left, the version that has won answers everything until a revision of the template at rest is ready.
//
// Nothing is remembered but what the service says itself, so whoever is killed between two changes, another goes on.
func (s *service) next(name string, w *wish) (*edit, carried) {
	move, given := s.noted()
	now := s.Spec.Traffic
	resting := s.pin() == name && (len(now) == 0 || now.String() == latest.String())
	ours := resting || given != "" && given == now.String()
	switch {
	case ours:
	case given == "" || w.move == move || len(w.canaries) > 0:
		return nil, carried{foreign: true, why: fmt.Sprintf("somebody else divides the traffic of the service %s: %s; with all of it at the newest revision, which has %s=%s, it follows the alias again", s.Metadata.Name, now, pinVariable, name)}
	}
	won := now.tagged(tag(w.version))
	switch {
	case resting && len(w.canaries) == 0:
		return nil, carried{done: true}
	case !resting && (len(w.canaries) == 0 || won != nil || now.tagged(standing) == nil):
		return s.settle(name, w)
	}
	return s.split(name, w, resting)
}

// settle brings a service to rest.
func (s *service) settle(name string, w *wish) (*edit, carried) {
	hold := slices.Clone(s.Spec.Traffic)
	winner := hold.tagged(tag(w.version))
	if winner == nil {
		winner = hold.tagged(standing)
	}
	if winner != nil { // else whatever somebody else has given stays until then
		won := *winner
		hold = slices.DeleteFunc(hold, func(e target) bool { return e.Tag != won.Tag && e.Tag != standing })
		for i := range hold {
			hold[i].Percent = 0
		}
		hold.tagged(won.Tag).Percent = 100
	}
	revision, why, failed := s.newest()
	switch {
	case s.pin() != name:
		return &edit{pin: name, traffic: hold}, carried{why: "the service " + s.Metadata.Name + " gets a revision for the alias"}
	case revision != "":
		return &edit{pin: name, traffic: latest}, carried{done: true}
	case hold.String() != s.Spec.Traffic.String():
		return &edit{pin: name, traffic: hold}, carried{why: why}
	}
	return nil, carried{why: why, failed: failed}
}

// split gives canaries their shares.
func (s *service) split(name string, w *wish, resting bool) (*edit, carried) {
	base := target{Tag: standing, Percent: 100}
	if resting {
		revision, why, _ := s.newest()
		if revision == "" {
			return nil, carried{why: why}
		}
		base.RevisionName = revision
	} else {
		base.RevisionName = s.Spec.Traffic.tagged(standing).RevisionName
	}
	want, missing := traffic{base}, 0
	pin := s.pin()
	after := carried{done: true}
	for _, c := range w.canaries {
		e := target{Tag: tag(c.Version), Percent: min(max(int64(math.Round(c.Share*100)), 1), want[0].Percent-1)}
		pinned := fmt.Sprintf("%s:%s=%d", name, standing, c.Version)
		if have := s.Spec.Traffic.tagged(e.Tag); have != nil && !resting {
			e.RevisionName = have.RevisionName
		} else if s.pin() == pinned {
			revision, why, failed := s.newest()
			e.RevisionName = revision
			if revision == "" {
				missing = c.Version
				after = carried{why: fmt.Sprintf("version %d: %s", c.Version, why), failed: failed}
			}
		} else if missing == 0 { // one at a time
			missing, pin = c.Version, pinned
			after = carried{why: fmt.Sprintf("the service %s gets a revision for version %d", s.Metadata.Name, c.Version)}
		}
		if e.RevisionName != "" && e.Percent > 0 {
			want[0].Percent -= e.Percent
			want = append(want, e)
		}
	}
	if pin == s.pin() && want.String() == s.Spec.Traffic.String() {
		return nil, after
	}
	return &edit{pin: pin, traffic: want}, after
}

// change makes an edit in what will be written.
func (s *service) change(e *edit, move int) error {
	at := func(m map[string]any, name string) map[string]any {
		v, _ := m[name].(map[string]any)
		if v == nil && m != nil {
			v = map[string]any{}
			m[name] = v
		}
		return v
	}
	annotations := at(at(s.raw, "metadata"), "annotations")
	annotations[annotation] = fmt.Sprintf("%d %s", move, e.traffic)
	spec := at(s.raw, "spec")
	spec["traffic"] = e.traffic
	containers, _ := at(at(spec, "template"), "spec")["containers"].([]any)
	container, _ := containers[0].(map[string]any)
	env, _ := container["env"].([]any)
	for _, v := range env {
		if v, ok := v.(map[string]any); ok && v["name"] == pinVariable {
			v["value"] = e.pin
			return nil
		}
	}
	return fault.New(fault.Invalid, "the template of the service %s has no %s, so it is no service of a pinned model", s.Metadata.Name, pinVariable)
}
