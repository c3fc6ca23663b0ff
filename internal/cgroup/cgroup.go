// Package cgroup reads how much CPU and memory this process may use according
// to the control groups of Linux, versions 1, 2 and both at once. Limits nest,
// so the smallest one on the way from the process's own group to the root
// counts. Elsewhere than on Linux, and where nothing is limited, it says so.
//
// The Go runtime reads the CPU quota too, but rounds one CPU up to a GOMAXPROCS
// of two; whoever sizes native thread pools needs the quota as it is. It does
// not read the memory limit at all.
package cgroup

import (
	"io/fs"
	"math"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
)

// CPU tells how many CPUs' worth of time the process may use; ok is false when
// that is not limited.
func CPU() (cpus float64, ok bool) { return tree{os.DirFS("/")}.cpu() }

// CPUs is how many threads the process can keep busy: what CPU tells, rounded up,
// and no more than there are.
func CPUs() int {
	n := runtime.GOMAXPROCS(0)
	if quota, ok := CPU(); ok {
		n = min(n, int(math.Ceil(quota)))
	}
	return max(n, 1)
}

// Memory tells how many bytes the process may use; ok is false when that is not
// limited.
func Memory() (bytes int64, ok bool) { return tree{os.DirFS("/")}.memory() }

// tree is the file system that proc and the control groups are mounted in.
type tree struct{ fs fs.FS }

func (t tree) cpu() (float64, bool) {
	least := math.Inf(1)
	for _, dir := range t.groups("") {
		if f := strings.Fields(t.read(dir + "/cpu.max")); len(f) == 2 {
			least = min(least, quota(f[0], f[1]))
		}
	}
	for _, dir := range t.groups("cpu") {
		least = min(least, quota(t.read(dir+"/cpu.cfs_quota_us"), t.read(dir+"/cpu.cfs_period_us")))
	}
	return least, !math.IsInf(least, 1)
}

// quota is the quotient of two times; infinite if it is no limit ("max", -1) or no number.
func quota(time, period string) float64 {
	t, err := strconv.ParseInt(time, 10, 64)
	p, err2 := strconv.ParseInt(period, 10, 64)
	if err != nil || err2 != nil || t <= 0 || p <= 0 {
		return math.Inf(1)
	}
	return float64(t) / float64(p)
}

// unlimited is the number, give or take a page, that version 1 shows for no limit.
const unlimited = math.MaxInt64 / 2

func (t tree) memory() (int64, bool) {
	least := int64(unlimited)
	limit := func(file string) {
		if n, err := strconv.ParseInt(t.read(file), 10, 64); err == nil && n > 0 {
			least = min(least, n)
		}
	}
	for _, dir := range t.groups("") {
		limit(dir + "/memory.max")
	}
	for _, dir := range t.groups("memory") {
		limit(dir + "/memory.limit_in_bytes")
	}
	return least, least < unlimited
}

// groups lists the folders of the groups that the process is in, from its own up
// to the topmost that can be seen: those of a version 1 controller, or those of
// version 2 when controller is empty.
func (t tree) groups(controller string) []string {
	own, ok := t.own(controller)
	if !ok {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(t.read("proc/self/mountinfo")) {
		// 36 35 98:0 /root /mount/point rw,noatime shared:1 - cgroup2 cgroup rw,cpu
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 {
			continue
		}
		if controller == "" && r[0] != "cgroup2" || controller != "" && (r[0] != "cgroup" || !has(r[2], controller)) {
			continue
		}
		root, mount := unescape(l[3]), strings.TrimPrefix(path.Clean(unescape(l[4])), "/")
		// What is mounted may be a group below the root of the hierarchy, as
		// containers see it. A process outside of that has no path in it; the
		// mounted group is then the nearest that can be seen.
		rest, inside := strings.CutPrefix(own, strings.TrimSuffix(root, "/"))
		if !inside || rest != "" && rest[0] != '/' {
			rest = ""
		}
		for dir := path.Join(mount, rest); ; dir = path.Dir(dir) {
			dirs = append(dirs, dir)
			if dir == mount || dir == "." {
				break
			}
		}
	}
	return dirs
}

// own is the path of the process's group in the hierarchy of a controller.
func (t tree) own(controller string) (string, bool) {
	for line := range strings.Lines(t.read("proc/self/cgroup")) {
		// 4:cpu,cpuacct:/path of version 1, 0::/path of version 2
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || controller == "" && f[0] != "0" || controller != "" && !has(f[1], controller) {
			continue
		}
		// A path that climbs out of the group namespace leads to nothing visible.
		return path.Clean("/" + f[2]), true
	}
	return "", false
}

func (t tree) read(file string) string {
	b, err := fs.ReadFile(t.fs, file)
	if err != nil {
		return "" // not there: not limited here
	}
	return strings.TrimSpace(string(b))
}

// has reports whether a comma-separated list has an item.
func has(list, item string) bool {
	for s := range strings.SplitSeq(list, ",") {
		if s == item {
			return true
		}
	}
	return false
}

// unescape undoes what mountinfo does to spaces, tabs, line ends and backslashes.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace
