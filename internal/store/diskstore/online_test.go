package diskstore_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

func openOnline(t testing.TB, dir string) store.Online {
	o, err := diskstore.OpenOnline(t.Context(), fileURL(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() }) // some tests close it themselves
	return o
}

func TestOnline(t *testing.T) {
	storetest.Online(t, func(t *testing.T) store.Online { return openOnline(t, t.TempDir()) })
}

func TestOnlineOutlivesItsProcess(t *testing.T) {
	dir := t.TempDir()
	o := openOnline(t, dir)
	if _, err := o.Write(t.Context(), []store.OnlineRow{{Key: "k", Stamp: store.Stamp{Event: 1}, Value: []byte("v")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := diskstore.OpenOnline(t.Context(), fileURL(dir)); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a second process: got %v, want Unavailable", err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	rows, err := openOnline(t, dir).Read(t.Context(), []string{"k"}, nil)
	if err != nil || string(rows[0].Value) != "v" {
		t.Errorf("got %q, %v", rows[0].Value, err)
	}
}

// A writer that is killed at any moment leaves each batch whole or not at all,
// and all of those that it had acknowledged.
func TestOnlineKilledWriter(t *testing.T) {
	dir := t.TempDir()
	rounds := 10
	if testing.Short() {
		rounds = 2
	}
	acknowledged := int64(0)
	for range rounds {
		before := acknowledged
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), "DISKSTORE_TEST_ROWS="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if acknowledged == before { // the first one
				time.AfterFunc(time.Duration(rand.IntN(50_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
			n, err := strconv.ParseInt(strings.TrimSuffix(lines.Text(), "."), 10, 64)
			if err != nil || !strings.HasSuffix(lines.Text(), ".") {
				break // killed in the middle of the line
			}
			acknowledged = n
		}
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("got %v, want the writer killed", err)
		}
		cancel()
		if acknowledged == before {
			t.Fatal("nothing was acknowledged before the kill")
		}

		o := openOnline(t, dir)
		rows, err := o.Read(t.Context(), batchKeys(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if r.Stamp != rows[0].Stamp || string(r.Value) != strconv.FormatInt(r.Stamp.Event, 10) {
				t.Errorf("%s has stamp %v and value %q where %s has %v: half a batch", r.Key, r.Stamp, r.Value, rows[0].Key, rows[0].Stamp)
			}
			if r.Stamp.Event < acknowledged {
				t.Errorf("%s: got stamp %d, want the acknowledged %d", r.Key, r.Stamp.Event, acknowledged)
			}
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func batchKeys() []string {
	keys := make([]string, 100)
	for i := range keys {
		keys[i] = fmt.Sprintf("row/%d", i)
	}
	return keys
}

// writeUntilKilled writes batches of newer and newer rows, and says so.
func writeUntilKilled(dir string) {
	ctx := context.Background()
	o, err := diskstore.OpenOnline(ctx, fileURL(dir))
	if err != nil {
		panic(err)
	}
	rows, err := o.Read(ctx, batchKeys(), nil)
	if err != nil {
		panic(err)
	}
	for n := rows[0].Stamp.Event + 1; ; n++ {
		for i := range rows {
			rows[i].Stamp.Event, rows[i].Value = n, strconv.AppendInt(nil, n, 10)
		}
		if _, err := o.Write(ctx, rows); err != nil {
			panic(err)
		}
		fmt.Printf("%d.\n", n)
	}
}

// Rows that have expired are removed though nobody asks for them.
func TestExpiredRowsAreDropped(t *testing.T) {
	o := openOnline(t, t.TempDir())
	rows := make([]store.OnlineRow, 500)
	for i := range rows {
		rows[i] = store.OnlineRow{Key: fmt.Sprintf("gone/%d", i), Stamp: store.Stamp{Event: 1}, TTL: time.Nanosecond}
	}
	if _, err := o.Write(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	for n := range int64(150) {
		if _, err := o.Write(t.Context(), []store.OnlineRow{{Key: "k", Stamp: store.Stamp{Event: n + 1}}}); err != nil {
			t.Fatal(err)
		}
	}
	if got, limit := diskstore.Rows(o), 10; got > limit {
		t.Errorf("got %d rows kept, want at most %d", got, limit)
	}
}

func BenchmarkOnline(b *testing.B) { storetest.BenchOnline(b, openOnline(b, b.TempDir())) }
