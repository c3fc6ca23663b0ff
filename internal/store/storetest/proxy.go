package storetest

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Cutting starts a proxy to a server at addr. After cut() it loses the next
// answer, and the connection with it, once the server has given it: the
// client can't know whether its request was served.
func Cutting(t testing.TB, addr string) (proxy string, cut func()) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var armed atomic.Bool
	var open sync.WaitGroup
	open.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return // the test is over
			}
			server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", addr)
			if err != nil {
				t.Error(err)
				_ = client.Close()
				return
			}
			open.Go(func() {
				_, _ = io.Copy(server, client) // until either side closes
				_ = server.Close()
			})
			open.Go(func() {
				defer client.Close()
				defer server.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := server.Read(buf)
					if err != nil || armed.CompareAndSwap(true, false) {
						return
					}
					if _, err := client.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // ends the accepting
		open.Wait()
	})
	return l.Addr().String(), func() { armed.Store(true) }
}
