package model

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// cardMost is how many bytes a card may have.
const cardMost = 1 << 20

func cardKey(name string, version int) string {
	return fmt.Sprintf("models/%s/cards/%010d", name, version)
}

// PutCard keeps what is told of how a version came to be: JSON, of which this package knows nothing. The
// one before, if there is one, is replaced.
func (c *Catalog) PutCard(ctx context.Context, name string, version int, card []byte) error {
	if len(card) > cardMost || !json.Valid(card) {
		return fault.New(fault.Invalid, "the card of %s:%d is no JSON of at most %d bytes", name, version, cardMost)
	}
	if _, err := c.Manifest(ctx, name, version); err != nil {
		return err
	}
	if _, err := c.blob.Put(ctx, cardKey(name, version), bytes.NewReader(card), int64(len(card)), store.Condition{}); err != nil {
		return fmt.Errorf("write the card of %s:%d: %w", name, version, err)
	}
	return nil
}

// Card gives what PutCard kept; NotFound: there is none.
func (c *Catalog) Card(ctx context.Context, name string, version int) (json.RawMessage, error) {
	if _, err := c.Manifest(ctx, name, version); err != nil {
		return nil, err
	}
	var card json.RawMessage
	_, err := store.ReadJSON(ctx, c.blob, cardKey(name, version), cardMost, &card)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.New(fault.NotFound, "version %d of model %q has no card: no pipeline made it", version, name)
	}
	if err != nil {
		return nil, fmt.Errorf("read the card of %s:%d: %w", name, version, err)
	}
	return card, nil
}
