// Package servetest runs a test binary as a server that can be killed, and makes certificates for servers that speak TLS.
package servetest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
)

// Instance is a child process; it can be killed and another one started in its place. It is safe for concurrent use.
type Instance struct {
	mu   sync.Mutex
	url  string
	kill func()
}

// Start runs this test binary's TestInstance, which prints the address that it listens at, with variables besides its own.
// It ends with the test at the latest.
func (i *Instance) Start(t *testing.T, environ ...string) error {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestInstance$")
	cmd.Env = append(os.Environ(), environ...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	kill := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "killed" is what it should say
	})
	t.Cleanup(kill)
	var addr string
	if _, err := fmt.Fscanln(out, &addr); err != nil {
		return fmt.Errorf("the instance ended before it listened: %w", err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.url, i.kill = "http://"+addr, kill
	return nil
}

// URL is where the process that was started last listens.
func (i *Instance) URL() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.url
}

// Kill ends it as a power cut would.
func (i *Instance) Kill() {
	i.mu.Lock()
	kill := i.kill
	i.mu.Unlock()
	kill()
}
