package pipeline

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// start starts a process in a session of its own, which ends with this process, however that ends. end must be called
// once it has been waited for: what it left behind is ended, too.
func start(cmd *exec.Cmd) (end func(), err error) {
	// A session and no group: trainers make groups of their own, and would be nobody's.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// The kernel ends it with the thread that started it, so that thread has to stay.
	started, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // and is never unlocked: the thread ends with the goroutine
		started <- cmd.Start()
		<-done
	}()
	if err := <-started; err != nil {
		close(done)
		return nil, err
	}
	return func() {
		for range 3 { // what is left, mostly nothing, may have started others before it was ended
			left := members(cmd.Process.Pid)
			for _, pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			if len(left) == 0 {
				break
			}
		}
		close(done)
	}, nil
}

// hint says what the end of a process most likely means.
func hint(s *os.ProcessState) string {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signal() == syscall.SIGKILL {
		return ", most likely since the machine or the container had no memory left"
	}
	return ""
}

// memoryOf gives how many bytes of memory a session of processes has; what they share counts for each.
func memoryOf(session int) int64 {
	total := int64(0)
	for _, pid := range members(session) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if fields := bytes.Fields(b); err == nil && len(fields) > 1 {
			pages, _ := strconv.ParseInt(string(fields[1]), 10, 64) // the kernel writes numbers
			total += pages * int64(os.Getpagesize())
		}
	}
	return total
}

// members gives the processes of a session.
func members(session int) (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if of, err := unix.Getsid(pid); err == nil && of == session {
			pids = append(pids, pid)
		}
	}
	return pids
}

// lock holds a folder until release is called or the process ends; false: another one holds it.
func lock(dir string) (release func(), ok bool) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, false
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, false
	}
	return func() { _ = f.Close() }, true
}
