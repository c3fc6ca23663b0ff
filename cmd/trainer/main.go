// Command trainer runs a program for the steps of pipelines, in the program's own container: copied into any image, it needs nothing of it.
//
//	trainer SOCKET PROGRAM [ARGUMENT...]   run PROGRAM whenever a step asks for it at SOCKET
//	trainer -copy PATH                     put this program there
//
// See docs/training.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/pilotlight-ml/pilotlight/internal/train/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "trainer: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "-copy":
		return copyTo(args[1])
	case len(args) < 2:
		return errors.New("usage: trainer SOCKET PROGRAM [ARGUMENT...], or trainer -copy PATH")
	}
	if err := os.Remove(args[0]); err != nil && !errors.Is(err, os.ErrNotExist) { // of a container that ended before
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", args[0])
	if err != nil {
		return err
	}
	host := command.Host{Words: args[1:], Log: slog.New(slog.NewJSONHandler(os.Stderr, nil))}
	return host.Serve(ctx, l)
}

// copyTo puts this program at a path.
func copyTo(path string) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	in, err := os.Open(self)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755) //nolint:gosec // a program that others run
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
