package bus

import (
	"net/http"
	"testing"
	"time"

	eventingduck "knative.dev/eventing/pkg/apis/duck/v1"
	"knative.dev/eventing/pkg/kncloudevents"

	"github.com/pilotlight-ml/pilotlight/internal/event"
)

// TestRetriesAreKnatives compares with the code of Knative's own dispatcher.
func TestRetriesAreKnatives(t *testing.T) {
	for _, policy := range []eventingduck.BackoffPolicyType{eventingduck.BackoffPolicyLinear, eventingduck.BackoffPolicyExponential} {
		for _, delay := range []string{"PT0.5S", "PT2S", "PT1M"} {
			retry := int32(5)
			spec := eventingduck.DeliverySpec{Retry: &retry, BackoffPolicy: &policy, BackoffDelay: &delay}
			theirs, err := kncloudevents.RetryConfigFromDeliverySpec(spec)
			if err != nil {
				t.Fatal(err)
			}
			ours, err := readDelivery(&spec)
			if err != nil {
				t.Fatal(err)
			}
			if ours.retries != theirs.RetryMax {
				t.Errorf("got %d retries, want %d", ours.retries, theirs.RetryMax)
			}
			for n := range 27 { // beyond, Knative's overflows
				if got, want := ours.pause(n), theirs.Backoff(n, nil); got != want {
					t.Errorf("%s %s: pause %d is %s, want %s", policy, delay, n, got, want)
				}
			}
		}
	}
	for status := 100; status < 600; status++ {
		want, err := kncloudevents.SelectiveRetry(t.Context(), &http.Response{StatusCode: status}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := event.Retried(status); got != want {
			t.Errorf("%d is tried again: got %t, want %t", status, got, want)
		}
	}
}

func TestNoPauseOverflows(t *testing.T) {
	for _, linear := range []bool{false, true} {
		d := delivery{delay: time.Minute, linear: linear}
		for n := 1; n < 1000; n++ {
			if got := d.pause(n); got < d.delay {
				t.Fatalf("linear %t: pause %d is %s", linear, n, got)
			}
		}
	}
}
