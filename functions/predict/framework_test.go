package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/pilotlight-ml/pilotlight/internal/env"
)

// serveFramework serves the function as the functions framework does.
func serveFramework() error {
	p, err := function(functions.HTTP).Start(context.Background(), env.Environ())
	if err != nil {
		return err
	}
	go func() { _ = p.Run(context.Background()) }()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return err
	}
	_ = l.Close() // the framework only takes the number of a port
	fmt.Fprintf(os.Stderr, `{"msg":"framework","addr":"127.0.0.1:%s"}`+"\n", port)
	return funcframework.StartHostPort("127.0.0.1", port)
}

// The handler that main registers is the whole function.
func TestTheFunctionsFrameworkServesIt(t *testing.T) {
	p := spawn(t, "framework", "framework", "FUNCTION_TARGET=predict")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) { // it tells before it listens
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(p.url, "http://"))
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err, p.lines())
		}
	}
	serves(t, p.url)
}
