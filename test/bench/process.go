package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pilotlight-ml/pilotlight/internal/model"
)

// process is a server that the bench started, alone on a port of its own.
type process struct {
	cmd   *exec.Cmd
	addr  string
	grpc  string // where it takes gRPC, if not at addr
	log   string
	cache string        // the folder of its disk cache, or none
	begun time.Time     // just before it was started
	ready time.Duration // from then to its first answer at the path of readiness
	ended chan struct{} // closed when it has ended, with err
	err   error
}

// launch says how to start a server.
type launch struct {
	args  []string
	env   []string // on top of what every process here gets
	core  int      // to run on alone, as in a pod with one CPU; negative: on all
	ready string   // path that answers 200 when the server is ready
	// first, where there is no such path, is a request that is answered then.
	first *request
	grpc  bool // it takes gRPC at a port of its own, GRPC_PORT
}

const anyCore = -1

// start starts a server and waits until it is ready. It looks every half
// millisecond, which is how exact ready is.
func (b *bench) start(ctx context.Context, l launch) (*process, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	return b.startAt(ctx, port, l)
}

func (b *bench) startAt(ctx context.Context, port string, l launch) (*process, error) {
	p := &process{addr: "127.0.0.1:" + port, ended: make(chan struct{})}
	log, err := os.CreateTemp(b.dir, "log-*")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.log = log.Name()
	p.cmd = b.command(ctx, l)
	p.cmd.Env = append(p.cmd.Env, "PORT="+port)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if l.grpc {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		p.grpc = "127.0.0.1:" + port
		p.cmd.Env = append(p.cmd.Env, "GRPC_PORT="+port)
	}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.begun = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	if err := p.await(ctx, l); err != nil {
		text, _ := os.ReadFile(p.log) // it is only to help
		text = text[max(0, len(text)-2000):]
		return nil, fmt.Errorf("start %s: %w\n%s", l.args[0], errors.Join(err, p.stop()), text)
	}
	p.ready = time.Since(p.begun)
	return p, nil
}

// command makes a child that knows nothing of the caller's environment but
// where things are, so that a setting left over in a shell changes no number.
func (b *bench) command(ctx context.Context, l launch) *exec.Cmd {
	args := l.args
	env := append([]string{"ORT_LIB=" + b.library, "HOME=" + b.dir, "TMPDIR=" + b.dir, "PATH=" + os.Getenv("PATH")}, l.env...)
	if l.core >= 0 {
		env = append(env, "GOMAXPROCS=1")
	}
	if b.pinned { // always, as this process may be pinned itself
		cores := "0-" + strconv.Itoa(runtime.NumCPU()-1)
		if l.core >= 0 {
			cores = strconv.Itoa(l.core)
		}
		args = append([]string{"taskset", "-c", cores}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = env
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// once runs a child to its end and gives what it printed.
func (b *bench) once(ctx context.Context, l launch) (string, error) {
	cmd := b.command(ctx, l)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(l.args, " "), err, log.String())
	}
	return out.String(), nil
}

const startLimit = 60 * time.Second

func (p *process) await(ctx context.Context, l launch) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		var err error
		if l.first != nil {
			_, err = p.answer(ctx, *l.first)
		} else {
			_, err = call(ctx, &client, http.MethodGet, "http://"+p.addr+l.ready, nil, http.StatusOK)
		}
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("it ended: %w", errors.Join(p.err, err))
		case <-ctx.Done():
			return err
		case <-time.After(500 * time.Microsecond):
		}
	}
}

// call sends one request, whose answer must have the given status.
func call(ctx context.Context, client *http.Client, method, url string, body io.Reader, status int) (string, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return "", err
	}
	return do(client, r, status)
}

func do(client *http.Client, r *http.Request, status int) (string, error) {
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != status {
		err = fmt.Errorf("%s %s: %s: %.300s", r.Method, r.URL, resp.Status, b)
	}
	return string(b), errors.Join(err, resp.Body.Close())
}

// publish pushes a model's file to the server.
func (p *process) publish(ctx context.Context, name, path string) error {
	return p.publishWith(ctx, name, path, model.Settings{})
}

func (p *process) publishWith(ctx context.Context, name, path string, settings model.Settings) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var head, tail bytes.Buffer
	form := multipart.NewWriter(&head)
	text, err := json.Marshal(settings)
	w, err2 := form.CreateFormField("settings")
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	_, err = w.Write(text)
	_, err2 = form.CreateFormFile("model", "model")
	fmt.Fprintf(&tail, "\r\n--%s--\r\n", form.Boundary())
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	url := "http://" + p.addr + "/admin/v1/models/" + name + "/versions"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, io.MultiReader(&head, f, &tail))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", form.FormDataContentType())
	_, err = do(http.DefaultClient, r, http.StatusCreated)
	return err
}

func (p *process) metrics(ctx context.Context) (string, error) {
	return call(ctx, http.DefaultClient, http.MethodGet, "http://"+p.addr+"/metrics", nil, http.StatusOK)
}

// stop has the process end in an orderly way.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // what it started and left
	return errors.Join(os.Remove(p.log), os.RemoveAll(p.cache))
}

// tick is the unit of times in /proc, the same on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// stat gives what follows the name in /proc/<pid>/stat: the state is first.
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(proc(pid, "stat"))
	if err != nil {
		return nil, err
	}
	// The name stands in parentheses and may hold spaces.
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])), nil
}

// cpu is how much processor time the process and those that it started have
// taken, in user and kernel mode.
func (p *process) cpu() (time.Duration, error) {
	var sum time.Duration
	family, err := p.family()
	for _, pid := range family {
		f, err := stat(pid)
		if err != nil {
			return 0, err
		}
		user, err := strconv.ParseInt(f[11], 10, 64)
		system, err2 := strconv.ParseInt(f[12], 10, 64)
		if err := errors.Join(err, err2); err != nil {
			return 0, err
		}
		sum += time.Duration(user+system) * tick
	}
	return sum, err
}

// clock is how much CPU time the process itself has taken, exactly.
func (p *process) clock() (time.Duration, error) {
	const sched = 2 // see clock_getcpuclockid(3)
	var t unix.Timespec
	err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|sched), &t)
	return time.Duration(t.Nano()), err
}

// family is the process and all that it started, or those did.
func (p *process) family() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if f, err := stat(pid); err == nil { // it may have ended meanwhile
			parent, _ := strconv.Atoi(f[1])
			children[parent] = append(children[parent], pid)
		}
	}
	all := []int{p.cmd.Process.Pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}

// pss is the memory of the process and those that it started; what is shared
// counts in parts.
func (p *process) pss() (sum int64, err error) {
	family, err := p.family()
	for _, pid := range family {
		n, err := kibibytes(proc(pid, "smaps_rollup"), "Pss")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, err
}

// memory reads a line of /proc/<pid>/status in bytes: VmRSS is what is resident
// now, VmHWM the most that ever was.
func (p *process) memory(name string) (int64, error) {
	return kibibytes(proc(p.cmd.Process.Pid, "status"), name)
}

func kibibytes(path, name string) (int64, error) {
	kib, err := strconv.ParseInt(strings.TrimSuffix(firstLine(path, name), " kB"), 10, 64)
	return kib << 10, err
}

func proc(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

func freePort() (string, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}
