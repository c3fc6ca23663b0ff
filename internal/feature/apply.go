package feature

import "context"

func (in *Ingest) apply(ctx context.Context, s *CompiledSource, rows []Row, outcomes []*Outcome) error {
	return nil
}
