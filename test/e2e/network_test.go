//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestStrangersDoNotReachRedis has a pod of another namespace, and one of this namespace that is no function, ask Redis.
// Whether that is let through is up to the network plug-in of the cluster: E2E_NETWORK_POLICIES=enforced says that it
// is one that should not.
func TestStrangersDoNotReachRedis(t *testing.T) {
	image := get[appsv1.Deployment](t, "deployment", "redis").Spec.Template.Spec.Containers[0].Image
	other := namespace + "-strangers"
	kubectl(t, nil, "create", "namespace", other)
	t.Cleanup(func() {
		if _, err := tryKubectl(t, nil, "delete", "namespace", other, "--wait=false"); err != nil {
			t.Error(err)
		}
	})
	for _, from := range []string{other, namespace} {
		b, err := json.Marshal(&corev1.Pod{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: "stranger", Namespace: from},
			Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, ActiveDeadlineSeconds: new(int64(30)), TerminationGracePeriodSeconds: new(int64(0)),
				Containers: []corev1.Container{{Name: "stranger", Image: image, Command: []string{"redis-cli", "-h", "redis." + namespace + ".svc.cluster.local", "ping"}}},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		kubectl(t, b, "-n", from, "apply", "-f", "-")
		t.Cleanup(func() {
			if _, err := tryKubectl(t, nil, "-n", from, "delete", "pod", "stranger", "--ignore-not-found"); err != nil {
				t.Error(err)
			}
		})
		var pod *corev1.Pod
		within(t, time.Minute, "the stranger is answered or gives up", func() bool {
			pod = get[corev1.Pod](t, "-n", from, "pod", "stranger")
			return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		})
		reached := pod.Status.Phase == corev1.PodSucceeded && strings.Contains(string(kubectl(t, nil, "-n", from, "logs", "stranger")), "PONG")
		switch {
		case !reached:
		case os.Getenv("E2E_NETWORK_POLICIES") == "enforced":
			t.Errorf("a pod of %s was answered by Redis", from)
		default:
			t.Skip("NOT ENFORCED: the network plug-in of this cluster ignores NetworkPolicies, a stranger was answered by Redis")
		}
	}
}
