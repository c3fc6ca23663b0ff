package knative

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"knative.dev/serving/pkg/apis/serving"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	servingv1beta1 "knative.dev/serving/pkg/apis/serving/v1beta1"
	knative "knative.dev/serving/pkg/networking"
)

// mapped tells whether a name outside of the cluster leads to a service, whatever its own visibility.
func (m *manifests) mapped(s *servingv1.Service) bool {
	return slices.ContainsFunc(m.objects, func(o metav1.Object) bool {
		d, ok := o.(*servingv1beta1.DomainMapping)
		return ok && d.Spec.Ref.Name == s.Name
	})
}

// checkNetwork lists what is wrong with names outside of the cluster, and with who may connect to whom.
func (m *manifests) checkNetwork(ctx context.Context) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, o := range m.objects {
		d, ok := o.(*servingv1beta1.DomainMapping)
		if !ok {
			continue
		}
		d = d.DeepCopy()
		d.SetDefaults(ctx)
		if err := d.Validate(ctx); err != nil {
			problem("DomainMapping %s: Knative would refuse it: %v", d.Name, err)
		}
		if m.services[d.Spec.Ref.Name] == nil {
			problem("DomainMapping %s: there is no service %s", d.Name, d.Spec.Ref.Name)
		}
		if d.Spec.TLS == nil {
			problem("DomainMapping %s: without TLS", d.Name)
		}
	}

	kourier := peer{namespace: "kourier-system", labels: labels.Set{"app": "3scale-kourier-gateway"}}
	activator := peer{namespace: "knative-serving", labels: labels.Set{"app": "activator"}}
	autoscaler := peer{namespace: "knative-serving", labels: labels.Set{"app": "autoscaler"}}
	broker := peer{namespace: "knative-eventing", labels: labels.Set{"app": "mt-broker-ingress"}}
	prometheus := peer{namespace: "monitoring", labels: labels.Set{"app.kubernetes.io/name": "prometheus"}}
	names := peer{namespace: "kube-system", labels: labels.Set{"k8s-app": "kube-dns"}}
	bucket := peer{address: netip.MustParseAddr("203.0.113.7")}
	strangers := []peer{
		{namespace: "default"},
		{namespace: "monitoring"},
		{namespace: "kube-system"},
		bucket,
		{namespace: namespace},
		{namespace: namespace, labels: labels.Set{"app": "something"}},                                                                              // beside us
		{namespace: "default", labels: labels.Set{serving.ServiceLabelKey: "predict", "app": "autoscaler", "app.kubernetes.io/name": "prometheus"}}, // who pretends
		broker,
		{namespace: "knative-eventing", labels: labels.Set{"app": "mt-broker-filter"}}, // who goes through the ingress
	}

	stores := map[string]int32{}
	for _, o := range m.objects {
		if s, ok := o.(*corev1.Service); ok {
			stores[s.Name] = s.Spec.Ports[0].Port
		}
	}
	ports := []int32{8080, knative.BackendHTTPPort, knative.BackendHTTP2Port, knative.BackendHTTPSPort, knative.QueueAdminPort, knative.AutoscalingQueueMetricsPort, knative.UserQueueMetricsPort}
	expect := func(from, to peer, port int32, want bool) {
		if got := m.connects(from, to, corev1.ProtocolTCP, port); got != want {
			problem("%s connects to port %d of %s: %t, want %t", from, port, to, got, want)
		}
	}
	for _, stranger := range append([]peer{kourier, activator}, strangers...) {
		expect(stranger, peer{namespace: namespace, labels: labels.Set{"app": "later"}}, 8080, false)
	}
	for _, s := range m.services {
		function := peer{namespace: namespace, labels: labels.Merge(s.Spec.Template.Labels, labels.Set{serving.ServiceLabelKey: s.Name})}
		for _, port := range ports {
			requests := slices.Contains([]int32{knative.BackendHTTPPort, knative.BackendHTTP2Port, knative.BackendHTTPSPort}, port)
			expect(kourier, function, port, requests)
			expect(activator, function, port, requests)
			expect(autoscaler, function, port, requests || port == knative.AutoscalingQueueMetricsPort)
			expect(prometheus, function, port, port == 8080 || port == knative.UserQueueMetricsPort)
			expect(function, function, port, false)
			for _, stranger := range strangers {
				expect(stranger, function, port, false)
			}
		}
		expect(function, broker, 8080, true)
		expect(function, kourier, 8081, true)
		expect(function, bucket, 443, true)
		expect(function, names, 53, true)
		if !m.connects(function, names, corev1.ProtocolUDP, 53) {
			problem("%s can't ask for names", function)
		}
		for name, port := range stores {
			store := peer{namespace: namespace, labels: labels.Set{"app": name}}
			expect(function, store, port, true)
			expect(function, store, 22, false)
			expect(store, function, knative.BackendHTTPPort, false)
			for _, other := range append([]peer{kourier, activator, prometheus}, strangers...) {
				expect(other, store, port, false)
				if name != "collector" { // which hands on to whom it is told to
					expect(store, other, 443, false)
				}
			}
		}
	}
	if _, ok := stores["collector"]; ok {
		collector, logs := peer{namespace: namespace, labels: labels.Set{"app": "collector"}}, peer{namespace: namespace, labels: labels.Set{"app": "collector-logs"}}
		expect(collector, bucket, 443, true)
		expect(logs, collector, stores["collector"], true)
		expect(logs, names, 53, true)
		expect(logs, bucket, 443, false)
		for _, port := range []int32{8888, 8889} {
			expect(prometheus, collector, port, true)
			for _, stranger := range append([]peer{kourier, activator, logs}, strangers...) {
				expect(stranger, collector, port, false)
			}
		}
		expect(prometheus, logs, 8888, true)
		for _, stranger := range append([]peer{kourier, activator, collector}, strangers...) {
			expect(stranger, logs, 8888, false)
		}
	}
	for _, sink := range m.sinks {
		step := peer{namespace: namespace, labels: sink.Spec.Job.Spec.Template.Labels}
		for name, port := range stores {
			expect(step, peer{namespace: namespace, labels: labels.Set{"app": name}}, port, true)
		}
		expect(step, broker, 8080, true)
		expect(step, bucket, 443, true)
		for _, port := range ports {
			for _, other := range append([]peer{kourier, activator, prometheus}, strangers...) {
				expect(other, step, port, false)
			}
		}
	}
	slices.Sort(problems)
	return problems
}

// peer is a pod, or an address outside.
type peer struct {
	namespace string
	labels    labels.Set
	address   netip.Addr
}

func (p peer) String() string {
	if p.namespace == "" {
		return p.address.String()
	}
	return fmt.Sprintf("pod %s of %s", p.labels, p.namespace)
}

// connects tells whether policies let one connect to another, as networking.k8s.io/v1 has it: who is selected by no policy of a
// direction may do everything in it, and else what at least one of them names.
func (m *manifests) connects(from, to peer, protocol corev1.Protocol, port int32) bool {
	in, out, restrictedIn, restrictedOut := false, false, false, false
	for _, o := range m.objects {
		p, ok := o.(*networkingv1.NetworkPolicy)
		if !ok {
			continue
		}
		if slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) && to.namespace == p.Namespace && selects(&p.Spec.PodSelector, to.labels) {
			restrictedIn = true
			for _, rule := range p.Spec.Ingress {
				in = in || names(rule.From, from, p.Namespace) && carries(rule.Ports, protocol, port)
			}
		}
		if slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) && from.namespace == p.Namespace && selects(&p.Spec.PodSelector, from.labels) {
			restrictedOut = true
			for _, rule := range p.Spec.Egress {
				out = out || names(rule.To, to, p.Namespace) && carries(rule.Ports, protocol, port)
			}
		}
	}
	return (in || !restrictedIn) && (out || !restrictedOut)
}

func selects(s *metav1.LabelSelector, l labels.Set) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(l)
}

func names(peers []networkingv1.NetworkPolicyPeer, p peer, own string) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(n networkingv1.NetworkPolicyPeer) bool {
		if n.IPBlock != nil {
			prefix, err := netip.ParsePrefix(n.IPBlock.CIDR)
			return err == nil && p.address.IsValid() && prefix.Contains(p.address)
		}
		inside := p.namespace == own
		if n.NamespaceSelector != nil {
			inside = p.namespace != "" && selects(n.NamespaceSelector, labels.Set{corev1.LabelMetadataName: p.namespace})
		}
		return inside && (n.PodSelector == nil || selects(n.PodSelector, p.labels))
	})
}

func carries(ports []networkingv1.NetworkPolicyPort, protocol corev1.Protocol, port int32) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		return p.Protocol != nil && *p.Protocol == protocol && p.Port != nil && p.Port.IntVal == port
	})
}

// TestHoles makes a hole, or closes what must be open, and looks whether the check tells.
func TestHoles(t *testing.T) {
	whole := string(render(t, "dev", "tls"))
	for _, test := range []struct{ name, old, new, problem string }{
		{"no policy for the rest", "  podSelector: {}\n", "  podSelector: {matchLabels: {app: nothing}}\n", "connects to port 8080 of pod app=later"},
		{"a namespace that is not the ingress's", "kubernetes.io/metadata.name: kourier-system", "kubernetes.io/metadata.name: kourier", "pod app=3scale-kourier-gateway of kourier-system connects to port 8012"},
		{"the function's own port", "port: 8012", "port: 8080", "pod app=activator of knative-serving connects to port 8080"},
		{"all of monitoring", "          app.kubernetes.io/name: prometheus", "          app.kubernetes.io/name: grafana", "of monitoring connects to port 8080"},
		{"everybody to Redis", "port: 6379\n      protocol: TCP\n  podSelector:\n    matchLabels:\n      app: redis", "port: 6379\n      protocol: TCP\n  podSelector:\n    matchLabels:\n      app: radis", "connects to port 6379 of pod app=redis of pilotlight: false, want true"},
		{"a mapping to nowhere", "    kind: Service\n    name: gateway\n  tls:", "    kind: Service\n    name: predikt\n  tls:", "there is no service predikt"},
		{"a mapping without TLS", "  tls:\n    secretName: pilotlight-tls\n", "", "DomainMapping pilotlight.example.com: without TLS"},
		{"misspelt field of a policy", "policyTypes:", "policyTyps:", `unknown field "policyTyps"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(whole, test.old) {
				t.Fatalf("the manifests hold no %q any more", test.old)
			}
			m, err := parse([]byte(strings.Replace(whole, test.old, test.new, 1)))
			problems := []string{fmt.Sprint(err)}
			if err == nil {
				problems = m.checkNetwork(t.Context())
			}
			if !strings.Contains(strings.Join(problems, "\n"), test.problem) {
				t.Errorf("got %q, want a problem that has %q", problems, test.problem)
			}
		})
	}
}
