package knative

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/rollout"
	"github.com/pilotlight-ml/pilotlight/internal/rollout/knativetest"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

// rights lists what a service account may, as "verb resource.group name".
func (m *manifests) rights(account string) (all []string) {
	for _, o := range m.objects {
		b, ok := o.(*rbacv1.RoleBinding)
		if !ok || !slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool {
			return s.Kind == rbacv1.ServiceAccountKind && s.Name == account && s.Namespace == b.Namespace
		}) {
			continue
		}
		for _, o := range m.objects {
			if r, ok := o.(*rbacv1.Role); ok && b.RoleRef.Kind == "Role" && r.Name == b.RoleRef.Name {
				all = append(all, granted(r.Rules)...)
			}
		}
	}
	slices.Sort(all)
	return all
}

func granted(rules []rbacv1.PolicyRule) (all []string) {
	for _, rule := range rules {
		for _, verb := range rule.Verbs {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, name := range rule.ResourceNames {
						all = append(all, verb+" "+strings.TrimSuffix(resource+"."+group, ".")+" "+name)
					}
					if len(rule.ResourceNames) == 0 {
						all = append(all, verb+" "+strings.TrimSuffix(resource+"."+group, ".")+" *")
					}
				}
			}
		}
	}
	return all
}

// tokenVolume tells whether a pod of a service can show who it is to Kubernetes.
func tokenVolume(s *servingv1.Service) bool {
	return slices.ContainsFunc(s.Spec.Template.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool { return p.ServiceAccountToken != nil })
	})
}

// checkRights lists who may more than it needs: rights are for single services that are there, and tokens for whom has rights.
func (m *manifests) checkRights() (problems []string) {
	for account := range m.accounts {
		rights := m.rights(account)
		for _, right := range rights {
			fields := strings.Fields(right)
			if strings.Contains(right, "*") {
				problems = append(problems, fmt.Sprintf("ServiceAccount %s: it may %s: expected single things by their names", account, right))
			} else if fields[1] == "services.serving.knative.dev" && m.services[fields[2]] == nil {
				problems = append(problems, fmt.Sprintf("ServiceAccount %s: it may %s, and there is no such service", account, right))
			}
		}
		for _, s := range m.services {
			if s.Spec.Template.Spec.ServiceAccountName == account && tokenVolume(s) != (len(rights) > 0) {
				problems = append(problems, fmt.Sprintf("service %s: it has a token of Kubernetes: %t, and rights: %q", s.Name, tokenVolume(s), rights))
			}
		}
	}
	for _, o := range m.objects {
		if b, ok := o.(*rbacv1.RoleBinding); ok && slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool { return !m.accounts[s.Name] }) {
			problems = append(problems, fmt.Sprintf("RoleBinding %s is of who is not there", b.Name))
		}
	}
	slices.Sort(problems)
	return problems
}

// TestRightsAreWhatTheCodeUses brings a version out with the rights of the manifests alone: it needs all of them and no others.
func TestRightsAreWhatTheCodeUses(t *testing.T) {
	m, err := parse(render(t, "dev", "pinned"))
	if err != nil {
		t.Fatal(err)
	}
	for account := range m.accounts {
		if rights := m.rights(account); account != "feedback" && len(rights) > 0 {
			t.Errorf("ServiceAccount %s may %q", account, rights)
		}
	}
	rights := m.rights("feedback")
	pinned, ok := strings.CutPrefix(m.environ(m.services["feedback"])["PINNED_SERVICES"], "flights=")
	if !ok || m.environ(m.services[pinned])["MODEL_PINNED"] != "flights" {
		t.Fatalf("feedback's PINNED_SERVICES name no service that pins flights")
	}
	cluster := knativetest.New(t)
	cluster.Allow = func(verb, resource, name string) bool { return slices.Contains(rights, verb+" "+resource+" "+name) }
	cluster.Add(pinned, "flights")
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	catalog := model.NewCatalog(blob, time.Minute, nil)
	for range 2 {
		if _, err := catalog.Publish(t.Context(), model.Manifest{Name: "flights", Runtime: "onnx", Digest: model.Digest("sha256:" + strings.Repeat("0", 64)), Size: 1, Memory: engine.Memory{Session: 1, Loading: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	traffic, err := rollout.OpenTraffic(&rollout.Config{Services: []string{"flights=" + pinned}, Kubernetes: cluster.URL, Account: cluster.Folder}, catalog, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() (model.Move, error){
		func() (model.Move, error) {
			return catalog.Move(t.Context(), "flights", model.Champion, model.Change{To: 1})
		},
		func() (model.Move, error) {
			return catalog.Canary(t.Context(), "flights", model.Champion, .2, model.Change{To: 2})
		},
		func() (model.Move, error) {
			return catalog.Promote(t.Context(), "flights", model.Champion, model.Change{})
		},
	} {
		if _, err := step(); err != nil {
			t.Fatal(err)
		}
		cluster.Start()
		if err := traffic.Tick(t.Context()); err != nil {
			t.Error(err)
		}
		cluster.Start()
		if err := traffic.Tick(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if used := cluster.Used(); !slices.Equal(used, rights) {
		t.Errorf("the code uses %q, and the role gives %q", used, rights)
	}
}

// TestTooManyRights makes roles wider, and looks whether the check tells.
func TestTooManyRights(t *testing.T) {
	whole := string(render(t, "dev", "pinned"))
	for _, test := range []struct{ name, old, new, problem string }{
		{"all services", "  resourceNames:\n  - predict-flights\n", "", "ServiceAccount feedback: it may get services.serving.knative.dev *"},
		{"all verbs", "  verbs:\n  - get\n", "  verbs:\n  - '*'\n  - get\n", "it may * services.serving.knative.dev predict-flights"},
		{"no such service", "  resourceNames:\n  - predict-flights\n", "  resourceNames:\n  - predict-fleghts\n", "and there is no such service"},
		{"somebody else", "- kind: ServiceAccount\n  name: feedback\n", "- kind: ServiceAccount\n  name: predict\n", "service feedback: it has a token of Kubernetes: true, and rights: []"},
		{"nobody", "- kind: ServiceAccount\n  name: feedback\n", "- kind: ServiceAccount\n  name: feedbeck\n", "RoleBinding pinned-traffic is of who is not there"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(whole, test.old) {
				t.Fatalf("the manifests hold no %q any more", test.old)
			}
			m, err := parse([]byte(strings.Replace(whole, test.old, test.new, 1)))
			if err != nil {
				t.Fatal(err)
			}
			if problems := strings.Join(m.checkRights(), "\n"); !strings.Contains(problems, test.problem) {
				t.Errorf("got %q, want a problem that has %q", problems, test.problem)
			}
		})
	}
}
