package auth

import (
	"net/http"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Need is what a request needs a scope for.
type Need struct {
	Action Action
	Model  string // "": it is about no single one, or its body says which
}

// Needs tells what a request needs. A path that can be read in two ways is Invalid: what stands between a caller and a
// handler must not take it for another one than the handler does.
func Needs(r *http.Request) (Need, error) {
	if err := checkPath(r); err != nil {
		return Need{}, err
	}
	path := r.URL.Path
	if need, ok := fixed[path]; ok {
		return need, nil
	}
	first, rest, _ := strings.Cut(path[1:], "/")
	name, rest, _ := strings.Cut(rest, "/")
	switch {
	case first == "v2" && name == "models":
		model, _, _ := strings.Cut(rest, "/")
		return Need{Predict, model}, nil
	case first == "v1" && name == "models":
		model, _, more := strings.Cut(rest, "/")
		if at := strings.LastIndexByte(model, ':'); at >= 0 && !more {
			model = model[:at]
		}
		return Need{Predict, model}, nil
	case first == "v2" && name == "repository":
		what, rest, _ := strings.Cut(rest, "/")
		model, _, _ := strings.Cut(rest, "/")
		if what == "models" {
			return Need{ModelsWrite, model}, nil
		}
	case first == "console": // it asks for what it shows with its reader's key
		return Need{}, nil
	case first == "landing" && rest != "":
		return Need{Action: FeaturesWrite}, nil
	case first == "admin" && name == "v1":
		return administers(r.Method, rest), nil
	case rest == "" && strings.Contains(first, "."):
		return calls(first, name), nil
	}
	return Need{Action: Admin}, nil
}

// fixed are the paths that stand for themselves.
var fixed = map[string]Need{
	"/":                        {},
	"/health":                  {},
	"/v2/health/live":          {},
	"/v2/health/ready":         {},
	"/v2":                      {Action: Predict},
	"/v2/":                     {Action: Predict},
	"/v2/models/stats":         {Action: Predict},
	"/v2/repository/index":     {Action: Predict},
	"/get-online-features":     {Action: FeaturesRead},
	"/push":                    {Action: FeaturesWrite},
	"/write-to-online-store":   {Action: FeaturesWrite},
	"/materialize":             {Action: FeaturesWrite},
	"/materialize-incremental": {Action: FeaturesWrite},
	"/feedback":                {Action: Feedback},
	"/events":                  {Action: Events},

	"/admin/v1/features/training-set": {Action: FeaturesRead},
}

// administers tells what a path below /admin/v1 needs.
func administers(method, path string) Need {
	what, rest, _ := strings.Cut(path, "/")
	looks := method == http.MethodGet || method == http.MethodHead
	switch {
	case what == "keys":
		return Need{Action: Admin}
	case looks:
		return Need{Action: AdminRead}
	case (what == "models" || what == "rollouts") && rest != "":
		model, _, _ := strings.Cut(rest, "/")
		return Need{ModelsWrite, model}
	}
	return Need{Action: Admin}
}

// calls tells what a method needs that is called by gRPC; of which model, its message says.
func calls(service, method string) Need {
	switch service {
	case "grpc.health.v1.Health":
		return Need{}
	case "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection":
		return Need{Action: Predict}
	case "feast.serving.ServingService":
		return Need{Action: FeaturesRead}
	case "inference.GRPCInferenceService":
		switch method {
		case "ServerLive", "ServerReady":
			return Need{}
		case "RepositoryModelLoad", "RepositoryModelUnload":
			return Need{Action: ModelsWrite}
		}
		return Need{Action: Predict}
	}
	return Need{Action: Admin}
}

// checkPath refuses paths that mean something else once somebody has tidied them up.
func checkPath(r *http.Request) error {
	p := r.URL.Path
	bad := !strings.HasPrefix(p, "/") || strings.Contains(p, "//") || strings.ContainsAny(p, "\\%") || dotted(p) ||
		strings.Contains(strings.ToLower(r.URL.RawPath), "%2f") ||
		strings.ContainsFunc(p, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\uFFFD' })
	if bad {
		return fault.New(fault.Invalid, "the path %.100q is not one that stands for itself: no empty or dotted segments, no encoded slashes or percent signs", r.URL.EscapedPath())
	}
	return nil
}

// dotted tells whether a path has a segment "." or "..".
func dotted(p string) bool {
	for segment := range strings.SplitSeq(p, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}
