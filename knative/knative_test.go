// Package knative holds the manifests, and tests that hold them and the code together: whatever the API server, or a
// function at its start, would refuse is refused here, and so is what both would take silently, as a misspelt name.
package knative

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	sinksv1alpha1 "knative.dev/eventing/pkg/apis/sinks/v1alpha1"
	sourcesv1 "knative.dev/eventing/pkg/apis/sources/v1"
	"knative.dev/networking/pkg/apis/networking"
	"knative.dev/serving/pkg/apis/autoscaling"
	"knative.dev/serving/pkg/apis/config"
	"knative.dev/serving/pkg/apis/serving"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	servingv1beta1 "knative.dev/serving/pkg/apis/serving/v1beta1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/pilotlight-ml/pilotlight/internal/env"
)

const (
	namespace = "pilotlight"
	module    = "github.com/pilotlight-ml/pilotlight/"
)

// kinds are those that manifests may hold.
var kinds = map[string]func() metav1.Object{
	"v1/Namespace":                              func() metav1.Object { return new(corev1.Namespace) },
	"v1/ServiceAccount":                         func() metav1.Object { return new(corev1.ServiceAccount) },
	"v1/ConfigMap":                              func() metav1.Object { return new(corev1.ConfigMap) },
	"v1/PersistentVolumeClaim":                  func() metav1.Object { return new(corev1.PersistentVolumeClaim) },
	"v1/Service":                                func() metav1.Object { return new(corev1.Service) },
	"networking.k8s.io/v1/NetworkPolicy":        func() metav1.Object { return new(networkingv1.NetworkPolicy) },
	"apps/v1/Deployment":                        func() metav1.Object { return new(appsv1.Deployment) },
	"apps/v1/DaemonSet":                         func() metav1.Object { return new(appsv1.DaemonSet) },
	"rbac.authorization.k8s.io/v1/Role":         func() metav1.Object { return new(rbacv1.Role) },
	"rbac.authorization.k8s.io/v1/RoleBinding":  func() metav1.Object { return new(rbacv1.RoleBinding) },
	"policy/v1/PodDisruptionBudget":             func() metav1.Object { return new(policyv1.PodDisruptionBudget) },
	"scheduling.k8s.io/v1/PriorityClass":        func() metav1.Object { return new(schedulingv1.PriorityClass) },
	"serving.knative.dev/v1/Service":            func() metav1.Object { return new(servingv1.Service) },
	"serving.knative.dev/v1beta1/DomainMapping": func() metav1.Object { return new(servingv1beta1.DomainMapping) },
	"eventing.knative.dev/v1/Broker":            func() metav1.Object { return new(eventingv1.Broker) },
	"eventing.knative.dev/v1/Trigger":           func() metav1.Object { return new(eventingv1.Trigger) },
	"sinks.knative.dev/v1alpha1/JobSink":        func() metav1.Object { return new(sinksv1alpha1.JobSink) },
	"sources.knative.dev/v1/PingSource":         func() metav1.Object { return new(sourcesv1.PingSource) },
	"sources.knative.dev/v1/SinkBinding":        func() metav1.Object { return new(sourcesv1.SinkBinding) },
}

// annotations are the ones with a meaning to Knative that a template may carry. Knative itself overlooks one that
// is misspelt.
var annotations = []string{
	autoscaling.ClassAnnotationKey, autoscaling.MinScaleAnnotationKey, autoscaling.MaxScaleAnnotationKey,
	autoscaling.InitialScaleAnnotationKey, autoscaling.ScaleDownDelayAnnotationKey, autoscaling.MetricAnnotationKey,
	autoscaling.TargetAnnotationKey, autoscaling.ScaleToZeroPodRetentionPeriodKey, autoscaling.WindowAnnotationKey,
	autoscaling.TargetUtilizationPercentageKey, autoscaling.TargetBurstCapacityKey,
	autoscaling.PanicWindowPercentageAnnotationKey, autoscaling.PanicThresholdPercentageAnnotationKey,
	autoscaling.ActivationScaleKey,
	serving.QueueSidecarCPUResourceRequestAnnotationKey, serving.QueueSidecarCPUResourceLimitAnnotationKey,
	serving.QueueSidecarMemoryResourceRequestAnnotationKey, serving.QueueSidecarMemoryResourceLimitAnnotationKey,
}

// foreign are variables that not our code reads but a library that it links.
var foreign = []string{
	"GLIBC_TUNABLES",
	"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_CA_BUNDLE",
	"TMPDIR", "PIPELINE_STEP", "OTEL_METRIC_EXPORT_INTERVAL",
}

// variants are the ways to deploy. features are what of config-features, beyond Knative's defaults, its
// documentation says that it needs.
var variants = []struct {
	name       string
	overlay    string // "": the files as they lie
	components []string
	features   []func(*config.Features)
	open       bool // to callers that nobody checks
}{
	{name: "base"},
	{name: "dev", overlay: "dev", open: true},
	{name: "dev, pinned", overlay: "dev", components: []string{"pinned"}, open: true},
	{name: "dev, pvc", overlay: "dev", components: []string{"pvc"}, features: claims, open: true},
	{name: "dev, trainer", overlay: "dev", components: []string{"trainer"}, open: true},
	{name: "dev, tls", overlay: "dev", components: []string{"tls"}, open: true},
	{name: "dev, collector", overlay: "dev", components: []string{"collector"}, open: true},
	{name: "prod", overlay: "prod", features: placement},
	{name: "prod, pinned, collector", overlay: "prod", components: []string{"pinned", "collector"}, features: placement},
	{name: "prod, pinned, pvc", overlay: "prod", components: []string{"pinned", "pvc"}, features: append(claims, placement...)},
	{name: "dev, pinned, pvc", overlay: "dev", components: []string{"pinned", "pvc"}, features: claims, open: true},
}

var claims = []func(*config.Features){
	func(f *config.Features) { f.PodSpecPersistentVolumeClaim = config.Enabled },
	func(f *config.Features) { f.PodSpecPersistentVolumeWrite = config.Enabled },
	func(f *config.Features) { f.PodSpecSecurityContext = config.Enabled },
}

var placement = []func(*config.Features){
	func(f *config.Features) { f.PodSpecTopologySpreadConstraints = config.Enabled },
	func(f *config.Features) { f.PodSpecPriorityClassName = config.Enabled },
}

func TestManifests(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			m, err := parse(render(t, v.overlay, v.components...))
			if err != nil {
				t.Fatal(err)
			}
			for _, problem := range m.check(t, v.features...) {
				t.Error(problem)
			}
			for _, s := range m.services {
				closed := s.Labels[networking.VisibilityLabelKey] == serving.VisibilityClusterLocal && !m.mapped(s)
				if !v.open && !closed && m.environ(s)["AUTH"] == "off" {
					t.Errorf("service %s: AUTH=off, and not cluster-local", s.Name)
				}
			}
		})
	}
}

// TestMistakes shows that the checks find what they are for.
func TestMistakes(t *testing.T) {
	whole := string(render(t, ""))
	for _, test := range []struct{ name, old, new, problem string }{
		{"misspelt variable", "name: UPLOAD_TIMEOUT", "name: UPLOAD_TIMOUT", "service predict: functions/predict does not read UPLOAD_TIMOUT"},
		{"misspelt key of the ConfigMap", "MAX_BODY:", "MAX_BODIES:", "ConfigMap pilotlight-config: no function reads MAX_BODIES"},
		{"misspelt variable of a library", "name: AWS_ACCESS_KEY_ID", "name: AWS_ACESS_KEY_ID", "functions/predict does not read AWS_ACESS_KEY_ID"},
		{"value that the function refuses", "REQUEST_TIMEOUT: 30s", "REQUEST_TIMEOUT: 30", `REQUEST_TIMEOUT is "30": expected a duration`},
		{"what is required is missing", "  AUTH: \"off\"\n", "", "nothing checks who calls: set AUTH=on"},
		{"a door for everyone", "name: AUTH\n              value: \"on\"", "name: AUTH\n              value: \"yes\"", "AUTH is \"yes\""},
		{"misspelt field", "containerConcurrency:", "containerConcurency:", `unknown field "containerConcurency"`},
		{"field given twice", "timeoutSeconds: 300", "timeoutSeconds: 300\n      timeoutSeconds: 200", `key "timeoutSeconds" already set`},
		{"misspelt annotation", "autoscaling.knative.dev/min-scale:", "autoscaling.knative.dev/min-scal:", "Knative knows no annotation autoscaling.knative.dev/min-scal"},
		{"annotation's value", "autoscaling.knative.dev/window: 60s", "autoscaling.knative.dev/window: 3s", "expected 6s <= 3s <= 1h0m0s"},
		{"image of no function", "pilotlight/functions/predict", "pilotlight/functions/predikt", "functions/predikt is no main"},
		{"image of no program", "pilotlight/functions/predict", "pilotlight/internal/predict", "internal/predict is no main"},
		{"probe by kubelet", "path: /readyz", "path: /readyz\n            periodSeconds: 1", "is asked by kubelet once a second at most"},
		{"feature that is off", "emptyDir:\n            sizeLimit: 8Gi", "persistentVolumeClaim: {claimName: x}", "must not set the field(s): spec.template.spec.volumes[0].persistentVolumeClaim"},
		{"no such ConfigMap", "            - configMapRef:\n                name: pilotlight-config", "            - configMapRef:\n                name: pilotlight", "there is no ConfigMap pilotlight"},
		{"no such account", "serviceAccountName: predict", "serviceAccountName: predictor", "there is no ServiceAccount predictor"},
		{"cut off before the function's answer", "timeoutSeconds: 300", "timeoutSeconds: 60", "UPLOAD_TIMEOUT is 4m40s, but queue-proxy cuts off at 1m0s"},
		{"cache larger than its volume", "value: 4GiB", "value: 8GiB", "MODEL_CACHE_SIZE is 8GiB"},
		{"cache beside its volume", "value: /var/cache/pilotlight", "value: /cache", "MODEL_CACHE_DIR is /cache, where no volume is mounted"},
		{"other namespace", "  name: predict\n  namespace: pilotlight", "  name: predict\n  namespace: default", `is in namespace "default"`},
		{"unknown event", "type: dev.pilotlight.model.", "type: dev.pilotlight.modell.", "trigger models-to-predict: none of the declared events passes its filters"},
		{"event that nobody takes", "type: dev.pilotlight.model.", "type: dev.pilotlight.modell.", "event dev.pilotlight.model.published.v1: no trigger takes it anywhere"},
		{"event that is for others", "    - exact:\n        type: dev.pilotlight.model.published.v1", "    - prefix:\n        type: dev.pilotlight.model.", "event dev.pilotlight.model.loaded.v1: a trigger would wake a function that does nothing with it"},
		{"misspelt expression", "AND (subject LIKE", "AND (subject LIK", "trigger aliases-to-predict: "},
		{"no such subscriber", "      name: predict\n    uri: /events", "      name: predikt\n    uri: /events", "there is no service predikt"},
		{"no such broker", "  broker: pilotlight", "  broker: pilotlicht", "there is no Broker pilotlicht"},
		{"no such dead-letter sink", "        name: deadletter\n      uri", "        name: deadletters\n      uri", "deadLetterSink: there is no service deadletters"},
		{"other path", "    uri: /events", "    uri: /event", "functions take events at /events"},
		{"misspelt field of a trigger", "  subscriber:", "  subscribers:", `unknown field "subscribers"`},
		{"not a duration", "backoffDelay: PT0.5S", "backoffDelay: 0.5s", "broker pilotlight: Knative would refuse it"},
		{"not a schedule", `schedule: "17 3 * * *"`, `schedule: "17 25 * * *"`, "PingSource nightly: Knative would refuse it"},
		{"tick for nothing", `"job":`, `"jop":`, "PingSource nightly: the data of the event"},
		{"nobody tells where events go", "app.kubernetes.io/part-of: pilotlight\n  sink", "app.kubernetes.io/part-of: pilot\n  sink", "a SinkBinding gives it K_SINK: false"},
		{"jobs that are tried again by others", "backoffLimit: 0", "backoffLimit: 3", "JobSink steps: who goes on with the run tries steps again"},
		{"jobs without an event", "/etc/jobsink-event/event", "/etc/jobsink/event", "JobSink steps: it is asked to run a step by PIPELINE_STEP"},
		{"jobs that tell nobody", "kind: Job\n    selector", "kind: Jop\n    selector", "JobSink steps: no SinkBinding gives its jobs K_SINK"},
		{"jobs that nobody asks for", "svc.cluster.local/pilotlight/steps", "svc.cluster.local/pilotlight/stebs", "service pipeline: PIPELINE_JOBS is http://job-sink.knative-eventing.svc.cluster.local/pilotlight/stebs, and there is no such JobSink"},
		{"writable root", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "the root file system must be read-only"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(whole, test.old) {
				t.Fatalf("the manifests hold no %q any more", test.old)
			}
			m, err := parse([]byte(strings.Replace(whole, test.old, test.new, 1)))
			problems := []string{fmt.Sprint(err)}
			if err == nil {
				problems = m.check(t)
			}
			if !strings.Contains(strings.Join(problems, "\n"), test.problem) {
				t.Errorf("got %q, want a problem that has %q", problems, test.problem)
			}
		})
	}
}

// TestPinnedIsPredict holds the copy of predict's manifest and its original together.
func TestPinnedIsPredict(t *testing.T) {
	m, err := parse(render(t, "dev", "pinned"))
	if err != nil {
		t.Fatal(err)
	}
	base, err := parse(render(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	want := base.services["predict"].DeepCopy()
	got := m.services["predict-flights"].DeepCopy()
	c := &got.Spec.Template.Spec.Containers[0]
	for _, name := range []string{"MODEL_PINNED", "MODEL_CANARIES_ELSEWHERE"} {
		i := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == name })
		if i < 0 {
			t.Fatalf("it has no %s", name)
		}
		c.Env = slices.Delete(c.Env, i, i+1)
	}
	for _, s := range []*servingv1.Service{got, want} { // what is meant to differ
		s.Name = ""
		delete(s.Spec.Template.Annotations, autoscaling.MinScaleAnnotationKey)
		delete(s.Spec.Template.Annotations, autoscaling.ScaleToZeroPodRetentionPeriodKey)
	}
	a, err := yaml.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	b, err := yaml.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("overlays/pinned and 300-predict.yaml differ in more than the pin; got\n%s\nwant\n%s", a, b)
	}
}

// render gives the manifests as `ko apply -f knative -f triggers` reads them or, of an overlay and components, as deploy.sh does.
func render(t *testing.T, overlay string, components ...string) []byte {
	t.Helper()
	if overlay == "" {
		files, err := filepath.Glob("*.yaml")
		events, err2 := filepath.Glob("../triggers/*.yaml")
		if err := errors.Join(err, err2); err != nil || len(files) == 0 || len(events) == 0 {
			t.Fatalf("no manifests: %v", err)
		}
		files = append(files, events...)
		var all []byte
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all = append(append(all, b...), "\n---\n"...)
		}
		return all
	}
	dir, err := os.MkdirTemp("overlays", ".run.*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	k := "resources: [../" + overlay + "]\ncomponents:\n"
	for _, c := range components {
		k += "  - ../" + c + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "Kustomization"), []byte(k), 0o600); err != nil {
		t.Fatal(err)
	}
	options := krusty.MakeDefaultOptions()
	options.LoadRestrictions = types.LoadRestrictionsNone
	resources, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := resources.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// manifests are the objects of one deployment.
type manifests struct {
	objects  []metav1.Object
	services map[string]*servingv1.Service
	configs  map[string]*corev1.ConfigMap
	accounts map[string]bool
	brokers  map[string]*eventingv1.Broker
	triggers map[string]*eventingv1.Trigger
	pings    []*sourcesv1.PingSource
	bindings []*sourcesv1.SinkBinding
	sinks    map[string]*sinksv1alpha1.JobSink
}

// parse decodes strictly: a field that a type does not have, or that stands twice, is an error.
func parse(all []byte) (*manifests, error) {
	m := &manifests{
		services: map[string]*servingv1.Service{}, configs: map[string]*corev1.ConfigMap{}, accounts: map[string]bool{},
		brokers: map[string]*eventingv1.Broker{}, triggers: map[string]*eventingv1.Trigger{},
		sinks: map[string]*sinksv1alpha1.JobSink{},
	}
	var errs []error
	for doc := range strings.SplitSeq(string(all), "\n---\n") {
		var head metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			return nil, err
		}
		if head.Kind == "" {
			continue // comments alone
		}
		empty, ok := kinds[head.APIVersion+"/"+head.Kind]
		if !ok {
			errs = append(errs, fmt.Errorf("no test knows the kind %s/%s", head.APIVersion, head.Kind))
			continue
		}
		o := empty()
		if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", head.Kind, err))
			continue
		}
		m.objects = append(m.objects, o)
		switch o := o.(type) {
		case *servingv1.Service:
			m.services[o.Name] = o
		case *corev1.ConfigMap:
			m.configs[o.Name] = o
		case *corev1.ServiceAccount:
			m.accounts[o.Name] = true
		case *eventingv1.Broker:
			m.brokers[o.Name] = o
		case *eventingv1.Trigger:
			m.triggers[o.Name] = o
		case *sinksv1alpha1.JobSink:
			m.sinks[o.Name] = o
		case *sourcesv1.PingSource:
			m.pings = append(m.pings, o)
		case *sourcesv1.SinkBinding:
			m.bindings = append(m.bindings, o)
		}
	}
	return m, errors.Join(errs...)
}

// check lists what is wrong.
func (m *manifests) check(t *testing.T, features ...func(*config.Features)) (problems []string) {
	t.Helper()
	// What a cluster has that nobody configured, and these features.
	defaults, err := config.NewDefaultsConfigFromMap(nil)
	if err != nil {
		t.Fatal(err)
	}
	enabled, err := config.NewFeaturesConfigFromMap(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range features {
		f(enabled)
	}
	ctx := config.ToContext(t.Context(), &config.Config{Defaults: defaults, Features: enabled, Autoscaler: config.FromContextOrDefaults(t.Context()).Autoscaler})

	for _, o := range m.objects {
		switch o.(type) {
		case *corev1.Namespace, *schedulingv1.PriorityClass: // are in none
			continue
		}
		if o.GetNamespace() != namespace {
			problems = append(problems, fmt.Sprintf("%T %s is in namespace %q", o, o.GetName(), o.GetNamespace()))
		}
	}
	read := map[string]bool{} // by any function
	for _, name := range slices.Sorted(maps.Keys(m.services)) {
		for _, problem := range m.checkService(ctx, t, m.services[name], read) {
			problems = append(problems, "service "+name+": "+problem)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.sinks)) {
		for _, problem := range m.checkJobs(t, m.sinks[name], read) {
			problems = append(problems, "JobSink "+name+": "+problem)
		}
	}
	problems = append(problems, m.checkEvents(t)...)
	problems = append(problems, m.checkNetwork(ctx)...)
	problems = append(problems, m.checkRights()...)
	for name, c := range m.configs {
		if c.Labels["app.kubernetes.io/component"] == "collector" {
			continue // of files, which the collector reads
		}
		for key := range c.Data {
			if !read[key] && !slices.Contains(foreign, key) {
				problems = append(problems, fmt.Sprintf("ConfigMap %s: no function reads %s", name, key))
			}
		}
	}
	return problems
}

// environ is what the container of a service gets, apart from what the platform adds.
func (m *manifests) environ(s *servingv1.Service) map[string]string {
	return m.variables(&s.Spec.Template.Spec.Containers[0])
}

func (m *manifests) variables(c *corev1.Container) map[string]string {
	environ := map[string]string{}
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil && m.configs[from.ConfigMapRef.Name] != nil {
			maps.Copy(environ, m.configs[from.ConfigMapRef.Name].Data)
		}
	}
	for _, e := range c.Env {
		environ[e.Name] = e.Value
		if e.ValueFrom != nil {
			environ[e.Name] = "of another object"
		}
	}
	return environ
}

func (m *manifests) checkService(ctx context.Context, t *testing.T, s *servingv1.Service, read map[string]bool) (problems []string) {
	t.Helper()
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	s = s.DeepCopy()
	spec := &s.Spec.Template.Spec
	if len(spec.Containers) != 1 {
		return []string{"expected one container"}
	}
	c := &spec.Containers[0]

	function, ok := strings.CutPrefix(c.Image, "ko://"+module)
	if !ok {
		problem("image %q is not one that ko builds of this module", c.Image)
		return problems
	}
	c.Image = "registry.example.com/image@sha256:" + strings.Repeat("0", 64)
	s.SetDefaults(ctx)
	if err := s.Validate(ctx); err != nil {
		problem("Knative would refuse it: %v", err)
	}
	for key := range s.Spec.Template.Annotations {
		if strings.Contains(key, "knative.dev/") && !slices.Contains(annotations, key) {
			problem("Knative knows no annotation %s", key)
		}
	}
	if !m.accounts[spec.ServiceAccountName] {
		problem("there is no ServiceAccount %s", spec.ServiceAccountName)
	}

	// What is left to us.
	if len(c.Ports) != 1 || c.Ports[0].Name != "h2c" {
		problem("its one port must be named h2c, or gRPC does not get through")
	}
	if p := c.ReadinessProbe; p == nil || p.HTTPGet == nil || p.HTTPGet.Path != "/readyz" || p.PeriodSeconds != 0 {
		problem("the readiness probe must be httpGet /readyz without periodSeconds, or it is asked by kubelet once a second at most")
	}
	problems = append(problems, checkSafe(&spec.PodSpec)...)

	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil && m.configs[from.ConfigMapRef.Name] == nil {
			problem("there is no ConfigMap %s", from.ConfigMapRef.Name)
		}
	}
	names, values, err := configuration(t, function, m.environ(s))
	if err != nil {
		problem("%v", err)
		return problems
	}
	for _, name := range names {
		read[name] = true
	}
	for _, e := range c.Env {
		if !slices.Contains(names, e.Name) && !slices.Contains(foreign, e.Name) {
			problem("%s does not read %s", function, e.Name)
		}
	}
	if jobs := values["PIPELINE_JOBS"]; jobs != "" {
		if path := strings.Split(jobs, "/"); len(path) != 5 || path[3] != namespace || m.sinks[path[4]] == nil {
			problem("PIPELINE_JOBS is %s, and there is no such JobSink", jobs)
		}
	}
	if bound := m.bound(s); bound != slices.Contains(names, "K_SINK") {
		problem("a SinkBinding gives it K_SINK: %t, and %s reads it: %t", bound, function, !bound)
	}
	return append(problems, checkTimes(spec, values)...)
}

// checkSafe looks after what every pod of ours must keep to.
func checkSafe(spec *corev1.PodSpec) (problems []string) {
	c := &spec.Containers[0]
	yes, no := true, false
	if sc := c.SecurityContext; sc == nil || *or(sc.ReadOnlyRootFilesystem, &no) != yes {
		problems = append(problems, "the root file system must be read-only")
	} else if !*or(sc.RunAsNonRoot, &no) || *or(sc.AllowPrivilegeEscalation, &yes) || sc.Capabilities == nil || !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		problems = append(problems, "it must run as somebody else than root, without capabilities")
	}
	if *or(spec.AutomountServiceAccountToken, &yes) {
		problems = append(problems, "it must not get a token of Kubernetes")
	}
	if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
		problems = append(problems, "it must ask for CPU and memory, and limit its memory")
	}
	return problems
}

// checkJobs lists what is wrong with jobs that events make.
func (m *manifests) checkJobs(t *testing.T, sink *sinksv1alpha1.JobSink, read map[string]bool) (problems []string) {
	t.Helper()
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if sink.Spec.Job == nil || len(sink.Spec.Job.Spec.Template.Spec.Containers) != 1 {
		return []string{"expected a job with one container"}
	}
	job := sink.Spec.Job.DeepCopy()
	spec := &job.Spec.Template.Spec
	c := &spec.Containers[0]
	problems = append(problems, checkSafe(spec)...)
	if job.Spec.BackoffLimit == nil || *job.Spec.BackoffLimit != 0 || spec.RestartPolicy != corev1.RestartPolicyNever {
		problem("who goes on with the run tries steps again, and nobody else: expected backoffLimit 0 and restartPolicy Never")
	}
	if job.Spec.ActiveDeadlineSeconds == nil || job.Spec.TTLSecondsAfterFinished == nil {
		problem("a job that hangs, or has ended, would stay for ever")
	}
	if !m.accounts[spec.ServiceAccountName] {
		problem("there is no ServiceAccount %s", spec.ServiceAccountName)
	}
	if job.Labels["app.kubernetes.io/component"] != "step" || job.Spec.Template.Labels["app.kubernetes.io/component"] != "step" {
		problem("SinkBinding and NetworkPolicies know jobs by their labels")
	}
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil && m.configs[from.ConfigMapRef.Name] == nil {
			problem("there is no ConfigMap %s", from.ConfigMapRef.Name)
		}
	}
	function, ok := strings.CutPrefix(c.Image, "ko://"+module)
	if !ok {
		problem("image %q is not one that ko builds of this module", c.Image)
		return problems
	}
	variables := m.variables(c)
	if variables["PIPELINE_STEP"] != "/etc/jobsink-event/event" {
		problem("it is asked to run a step by PIPELINE_STEP, where Knative mounts the event")
	}
	delete(variables, "PIPELINE_STEP")
	names, _, err := configuration(t, function, variables)
	if err != nil {
		problem("%v", err)
		return problems
	}
	for _, name := range names {
		read[name] = true
	}
	for _, e := range c.Env {
		if !slices.Contains(names, e.Name) && !slices.Contains(foreign, e.Name) {
			problem("%s does not read %s", function, e.Name)
		}
	}
	if !m.binds("Job", "batch/", job.Labels) {
		problem("no SinkBinding gives its jobs K_SINK")
	}
	return problems
}

// checkTimes compares what must fit together.
func checkTimes(spec *servingv1.RevisionSpec, values map[string]string) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	duration := func(name string) time.Duration {
		d, err := time.ParseDuration(values[name])
		if err != nil {
			problem("%s: %v", name, err)
		}
		return d
	}
	timeout := time.Duration(*spec.TimeoutSeconds) * time.Second
	request, drain := duration("REQUEST_TIMEOUT"), duration("DRAIN_TIMEOUT")
	if u := duration("UPLOAD_TIMEOUT"); u >= timeout {
		problem("UPLOAD_TIMEOUT is %s, but queue-proxy cuts off at %s", u, timeout)
	}
	if drain <= request {
		problem("DRAIN_TIMEOUT is %s, less than REQUEST_TIMEOUT", drain)
	}
	const queueProxyDrains = 30 * time.Second
	if queueProxyDrains+drain >= timeout {
		problem("the pod is killed after %s, before it has drained", timeout)
	}

	dir, caches := values["MODEL_CACHE_DIR"]
	if !caches {
		return problems
	}
	i := slices.IndexFunc(spec.Containers[0].VolumeMounts, func(v corev1.VolumeMount) bool { return v.MountPath == dir })
	if i < 0 {
		problem("MODEL_CACHE_DIR is %s, where no volume is mounted", dir)
		return problems
	}
	for _, v := range spec.Volumes {
		if v.Name != spec.Containers[0].VolumeMounts[i].Name || v.EmptyDir == nil {
			continue
		}
		var size env.Size
		if err := size.UnmarshalText([]byte(values["MODEL_CACHE_SIZE"])); err != nil {
			problem("MODEL_CACHE_SIZE: %v", err)
		}
		if v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Cmp(*resource.NewQuantity(int64(size), resource.BinarySI)) <= 0 {
			problem("MODEL_CACHE_SIZE is %s, which with uploads on top does not fit into the volume's %s", values["MODEL_CACHE_SIZE"], v.EmptyDir.SizeLimit)
		}
	}
	return problems
}

func or[T any](p, fallback *T) *T {
	if p == nil {
		return fallback
	}
	return p
}

// mains are the functions that were built, once for all tests.
var mains sync.Map

// program builds a function, once for all tests.
func program(t *testing.T, function string) (string, error) {
	t.Helper()
	build, _ := mains.LoadOrStore(function, sync.OnceValues(func() (string, error) {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Name}}", "../"+function).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "main" {
			return "", fmt.Errorf("%s is no main: %s", function, bytes.TrimSpace(out))
		}
		program := filepath.Join(programs, filepath.Base(function))
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../"+function).CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %s", function, out)
		}
		return program, nil
	}))
	return build.(func() (string, error))()
}

// configuration asks a function itself: which variables it reads, and what they would hold.
func configuration(t *testing.T, function string, environ map[string]string) (names []string, values map[string]string, err error) {
	t.Helper()
	program, err := program(t, function)
	if err != nil {
		return nil, nil, err
	}
	c := exec.CommandContext(t.Context(), program, "-config")
	c.Env = []string{"PORT=8080"}
	for k, v := range environ {
		c.Env = append(c.Env, k+"="+v)
	}
	out, err := c.CombinedOutput()
	if err != nil {
		return nil, nil, fmt.Errorf("it would not start: %s", bytes.TrimSpace(out))
	}
	values = map[string]string{}
	for line := range strings.Lines(string(out)) {
		if f := row.FindStringSubmatch(strings.TrimSpace(line)); f != nil {
			names, values[f[1]] = append(names, f[1]), f[2]
		}
	}
	return names, values, nil
}

// row is a line of -config: the variable, what it holds, where that came from, who reads it.
var row = regexp.MustCompile(`^([A-Z][A-Z0-9_]*) +(.*?) +(?:environment|default) +.*$`)

// programs is the folder that functions are built into.
var programs string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pilotlight-knative-")
	if err != nil {
		panic(err)
	}
	programs = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
	os.Exit(code)
}
