package rpc

import (
	"context"
	_ "embed" // for healthFile
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

//go:embed health.binpb
var healthFile []byte

// The states of a service, as HealthCheckResponse has them.
const (
	serving        = 1
	notServing     = 2
	serviceUnknown = 3
)

// watchEvery is how often a watched state is looked at.
const watchEvery = time.Second

// Health makes grpc.health.v1.Health: all services stand as the server does.
func Health(ready func() error, services ...Service) Service {
	const name = "grpc.health.v1.Health"
	state := func(service string) uint64 {
		known := service == "" || service == name || slices.ContainsFunc(services, func(s Service) bool { return s.Name == service })
		switch {
		case !known:
			return serviceUnknown
		case ready() != nil:
			return notServing
		}
		return serving
	}
	check := func(_ context.Context, message, dst []byte) ([]byte, error) {
		service, err := text(message, 1)
		if err != nil {
			return nil, err
		}
		now := state(service)
		if now == serviceUnknown {
			return nil, fault.New(fault.NotFound, "service %q is not one that this server has", tensor.Clip(service))
		}
		return appendState(dst, now), nil
	}
	watch := func(c *Call) error {
		message, err := c.ReceiveOnly()
		if err != nil {
			return err
		}
		service, err := text(message, 1)
		if err != nil {
			return err
		}
		c.Stream()
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for before := uint64(0); ; {
			now := state(service)
			if now != before {
				if err := c.Send(appendState(make([]byte, Prefix), now)); err != nil {
					return err
				}
				before = now
			}
			select {
			case <-tick.C:
			case <-c.Context().Done():
				return context.Cause(c.Context())
			case <-serve.Draining(c.Request).Done():
				return fault.New(fault.Unavailable, "the server is shutting down")
			}
		}
	}
	return Service{Name: name, File: healthFile, Methods: map[string]Method{"Check": Unary(check), "Watch": watch}}
}

func appendState(dst []byte, state uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, 1, protowire.VarintType), state)
}

// text finds a string in a message; the last of its number counts.
func text(message []byte, number protowire.Number) (found string, err error) {
	err = texts(message, func(n protowire.Number, text string) {
		if n == number {
			found = text
		}
	})
	return found, err
}

// texts calls f for the strings of a message.
func texts(message []byte, f func(protowire.Number, string)) error {
	for b := message; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fault.New(fault.Invalid, "the message is not valid protobuf")
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return fault.New(fault.Invalid, "the message is not valid protobuf")
		}
		if kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(b)
			f(number, string(value))
		}
		b = b[n:]
	}
	return nil
}
