package rpc

import (
	_ "embed" // for the files
	"errors"
	"io"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

//go:embed reflection_v1.binpb
var reflectionV1 []byte

//go:embed reflection_v1alpha.binpb
var reflectionV1Alpha []byte

// The requests of ServerReflectionInfo, by the number of their field.
const (
	askFile       = 3
	askSymbol     = 4
	askExtension  = 5
	askExtensions = 6
	askServices   = 7
)

// reflection makes both versions of the reflection service, which differ in
// nothing but their name.
func reflection(services []Service) []Service {
	both := []Service{
		{Name: "grpc.reflection.v1.ServerReflection", File: reflectionV1},
		{Name: "grpc.reflection.v1alpha.ServerReflection", File: reflectionV1Alpha},
	}
	all := append(append([]Service{}, services...), both...)
	method := func(c *Call) error {
		c.Stream()
		for {
			message, err := c.Receive()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			answer, err := reflect(all, message)
			if err != nil {
				return err
			}
			if err := c.Send(answer); err != nil {
				return err
			}
		}
	}
	for i := range both {
		both[i].Methods = map[string]Method{"ServerReflectionInfo": method}
	}
	return both
}

// reflect answers one ServerReflectionRequest.
func reflect(services []Service, message []byte) ([]byte, error) {
	var host, asked string
	kind := protowire.Number(0)
	err := texts(message, func(number protowire.Number, text string) {
		switch number {
		case 1:
			host = text
		case askFile, askSymbol, askExtension, askExtensions, askServices:
			kind, asked = number, text
		}
	})
	if err != nil {
		return nil, err
	}
	answer := appendBytes(make([]byte, Prefix), 1, host)
	answer = appendBytes(answer, 2, string(message))
	if kind == askServices {
		var list []byte
		for _, s := range services {
			list = appendBytes(list, 1, string(appendBytes(nil, 1, s.Name)))
		}
		return appendBytes(answer, 6, string(list)), nil
	}
	for _, s := range services {
		// Each file stands by itself and has a package of its own.
		name, _ := text(s.File, 1)
		in, _ := text(s.File, 2)
		if kind == askFile && asked == name || kind == askSymbol && strings.HasPrefix(asked, in+".") {
			return appendBytes(answer, 4, string(appendBytes(nil, 1, string(s.File)))), nil
		}
	}
	problem := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(notFound))
	return appendBytes(answer, 7, string(appendBytes(problem, 2, "this server declares no such thing"))), nil
}

func appendBytes(dst []byte, number protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(dst, number, protowire.BytesType), text)
}
