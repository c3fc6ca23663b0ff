// Package knativetest is a Kubernetes API server in the process that knows Knative services and nothing else: as Knative's, by its
// types and its own validation. It is for tests of what moves traffic.
package knativetest

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"knative.dev/pkg/apis"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
)

// Namespace is where all of its services are.
const Namespace = "pilotlight"

// Cluster is the server. It is safe for concurrent use.
type Cluster struct {
	URL    string
	Folder string // of the service account: token, ca.crt and namespace

	// Allow tells whether the service account may do that; nil: all.
	Allow func(verb, resource, name string) bool

	t         *testing.T
	mu        sync.Mutex
	services  map[string]*servingv1.Service
	revisions map[string]*corev1.EnvVar // MODEL_PINNED by the names of revisions
	version   int
	used      map[string]bool
	broken    string // revisions with this in MODEL_PINNED never start
	lost      int    // answers to changes that get lost, after the changes were made
}

// New starts one, until the test ends.
func New(t *testing.T) *Cluster {
	t.Helper()
	c := &Cluster{t: t, Folder: t.TempDir(), services: map[string]*servingv1.Service{}, revisions: map[string]*corev1.EnvVar{}, used: map[string]bool{}}
	s := httptest.NewTLSServer(http.HandlerFunc(c.serve))
	t.Cleanup(s.Close)
	c.URL = s.URL
	for name, b := range map[string][]byte{
		"ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), "namespace": []byte(Namespace), "token": []byte("secret\n"),
	} {
		if err := os.WriteFile(filepath.Join(c.Folder, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// Add makes a service that pins a model, and waits until it is ready.
func (c *Cluster) Add(name, model string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &servingv1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace, UID: "1", Labels: map[string]string{"kept": "yes"}}}
	s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "predict", Image: "predict", Env: []corev1.EnvVar{{Name: "LOG_LEVEL", Value: "INFO"}, {Name: "MODEL_PINNED", Value: model}}}}
	s.SetDefaults(c.t.Context())
	c.keep(s)
	c.start(s)
}

// Deploy has somebody else change a service, as by kubectl.
func (c *Cluster) Deploy(name string, change func(*servingv1.Service)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.services[name].DeepCopy()
	change(s)
	s.SetDefaults(c.t.Context())
	c.keep(s)
}

// Start has the newest revisions become ready, or fail if they are broken.
func (c *Cluster) Start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.services {
		c.start(s)
	}
}

// Break has revisions never start that pin that.
func (c *Cluster) Break(pinned string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = pinned
}

// Lose has the answers to so many changes get lost.
func (c *Cluster) Lose(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = n
}

// Used lists what was done, as "verb resource name".
func (c *Cluster) Used() (all []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for u := range c.used {
		all = append(all, u)
	}
	slices.Sort(all)
	return all
}

// Shares gives the traffic of a service by what the revisions pin, in percent.
func (c *Cluster) Shares(name string) map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.services[name]
	all := map[string]int64{}
	for _, to := range s.Spec.Traffic {
		revision := to.RevisionName
		if to.LatestRevision != nil && *to.LatestRevision {
			revision = s.Status.LatestReadyRevisionName
		}
		pinned := c.revisions[revision]
		if pinned == nil {
			c.t.Errorf("traffic goes to %q, which is no revision", revision)
			continue
		}
		if to.Percent != nil && *to.Percent > 0 {
			all[pinned.Value] += *to.Percent
		}
	}
	return all
}

// Get gives a service.
func (c *Cluster) Get(name string) *servingv1.Service {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.services[name].DeepCopy()
}

// keep writes a service as the API server does, and begins what Knative does then.
func (c *Cluster) keep(s *servingv1.Service) {
	c.version++
	s.ResourceVersion = fmt.Sprint(c.version)
	old := c.services[s.Name]
	if old == nil || !reflect.DeepEqual(old.Spec, s.Spec) {
		s.Generation++
	}
	if old == nil || !reflect.DeepEqual(old.Spec.Template, s.Spec.Template) {
		s.Status.LatestCreatedRevisionName = fmt.Sprintf("%s-%05d", s.Name, s.Generation)
		s.Status.Conditions = []apis.Condition{{Type: servingv1.ServiceConditionConfigurationsReady, Status: corev1.ConditionUnknown}}
		i := slices.IndexFunc(s.Spec.Template.Spec.Containers[0].Env, func(e corev1.EnvVar) bool { return e.Name == "MODEL_PINNED" })
		c.revisions[s.Status.LatestCreatedRevisionName] = &s.Spec.Template.Spec.Containers[0].Env[i]
	} else {
		s.Status.ObservedGeneration = s.Generation
	}
	c.services[s.Name] = s
}

func (c *Cluster) start(s *servingv1.Service) {
	c.version++
	s.ResourceVersion, s.Status.ObservedGeneration = fmt.Sprint(c.version), s.Generation
	revision := s.Status.LatestCreatedRevisionName
	condition := apis.Condition{Type: servingv1.ServiceConditionConfigurationsReady, Status: corev1.ConditionTrue}
	if c.broken != "" && c.revisions[revision].Value == c.broken {
		condition.Status, condition.Message = corev1.ConditionFalse, fmt.Sprintf("Revision %q failed with message: Container failed with: exit 1.", revision)
	} else {
		s.Status.LatestReadyRevisionName = revision
	}
	s.Status.Conditions = []apis.Condition{condition}
}

func (c *Cluster) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	refuse := func(status int, message string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(metav1.Status{Code: int32(status), Message: message})
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/apis/serving.knative.dev/v1/namespaces/"+Namespace+"/services/")
	verb := map[string]string{http.MethodGet: "get", http.MethodPut: "update"}[r.Method]
	c.used[verb+" services.serving.knative.dev "+name] = true
	s := c.services[name]
	switch {
	case r.Header.Get("Authorization") != "Bearer secret":
		refuse(http.StatusUnauthorized, "Unauthorized")
	case !ok || verb == "":
		refuse(http.StatusMethodNotAllowed, r.Method+" "+r.URL.Path)
	case c.Allow != nil && !c.Allow(verb, "services.serving.knative.dev", name):
		refuse(http.StatusForbidden, "forbidden")
	case s == nil:
		refuse(http.StatusNotFound, "not found")
	case verb == "update":
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		var put servingv1.Service
		if err := d.Decode(&put); err != nil {
			refuse(http.StatusBadRequest, err.Error())
			return
		}
		put.SetDefaults(r.Context())
		if err := put.Validate(r.Context()).Filter(apis.ErrorLevel); err != nil {
			refuse(http.StatusUnprocessableEntity, err.Error())
			return
		}
		if put.ResourceVersion != s.ResourceVersion {
			refuse(http.StatusConflict, "the object has been modified; please apply your changes to the latest version and try again")
			return
		}
		if put.Labels["kept"] != "yes" || put.UID != s.UID {
			c.t.Error("an update lost what it did not mean")
		}
		put.Status, put.Generation = s.Status, s.Generation
		c.keep(&put)
		if c.lost > 0 {
			c.lost--
			panic(http.ErrAbortHandler)
		}
		_ = json.NewEncoder(w).Encode(c.services[name])
	default:
		_ = json.NewEncoder(w).Encode(s)
	}
}
