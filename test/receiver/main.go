// Command receiver is the subscriber that the tests on a cluster deploy.
package main

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event/eventtest"
)

func main() {
	server := http.Server{
		Addr: ":" + cmp.Or(os.Getenv("PORT"), "8080"), Handler: &eventtest.Receiver{Sink: os.Getenv("K_SINK")}, ReadHeaderTimeout: 5 * time.Second,
	}
	fmt.Fprintln(os.Stderr, server.ListenAndServe())
	os.Exit(1)
}
