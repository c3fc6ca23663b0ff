package command

import "syscall"

// attributes have a program lead a process group, and end when this process does.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// signal sends a signal to the group that pid leads.
func signal(pid int, s syscall.Signal) error { return syscall.Kill(-pid, s) }
