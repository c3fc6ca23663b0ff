package predict

import (
	"context"
	"time"
)

// Infer answers one request without a protocol.
func (f *Flow) Infer(ctx context.Context, r *Request) (*Answer, error) {
	m, err := f.Pick(ctx, r.Ref)
	if err != nil {
		return nil, err
	}
	a, _, err := f.infer(ctx, m, f.of(m), r, nil, time.Now())
	return a, err
}
