//go:build e2e

package e2e

import (
	"context"
	"net"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
)

// TestGRPC has grpc-go's client call a service through the ingress: one that is at zero, and then beside REST on the
// same port.
func TestGRPC(t *testing.T) {
	s := predict(t)
	s.push(t, "sums", onnxtest.Simple(-1).Bytes())
	conn := s.dial(t)
	after := s.toZero(t)
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if got, err := predicttest.Sum(ctx, conn, "sums", 4, 5); err != nil || got != 9 {
		t.Fatalf("from zero: got %d %v, want 9", got, err)
	}
	t.Logf("at zero after %.1f s; call to answer %d ms", after.Seconds(), time.Since(begin).Milliseconds())
	if h, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: got %v %v", h, err)
	}
	if _, err := predicttest.Sum(ctx, conn, "nobody", 1, 1); status.Code(err) != codes.NotFound || status.Convert(err).Message() != `model "nobody" does not exist` {
		t.Errorf("unknown model: got %v", err)
	}
	c := client(t, false)
	var wg sync.WaitGroup
	for i := range int32(8) {
		wg.Go(func() {
			for j := range int32(25) {
				if got, err := predicttest.Sum(ctx, conn, "sums", i, j); err != nil || got != i+j {
					t.Errorf("%d + %d: got %d %v", i, j, got, err)
				}
				if err := s.ask(ctx, c, 1); err != nil {
					t.Errorf("beside it: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// shown is a key that each call shows.
type shown string

func (s shown) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(s)}, nil
}

func (shown) RequireTransportSecurity() bool { return false } // to the ingress on loopback

// dial gives a connection to a service by the ingress.
func (s *service) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	address := s.host
	if door := os.Getenv("KNATIVE_INGRESS_URL"); door != "" {
		u, err := url.Parse(door)
		if err != nil {
			t.Fatal(err)
		}
		address = u.Host
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(address, "80")
	}
	conn, err := grpc.NewClient(address, grpc.WithAuthority(s.host), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(shown(s.key)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
