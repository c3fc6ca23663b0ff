package telemetry

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// processStart finds when the system started this process, given the time
// now. The kernel tells it in ticks, so the result may be early by up to 10 ms.
func processStart(now time.Time) (time.Time, error) {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return time.Time{}, err
	}
	// proc(5): the second field is the program's name in parentheses, which
	// may hold anything; starttime is the 22nd, in ticks since boot.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const starttime = 22 - 3 // fields begins with the third
	if len(fields) <= starttime {
		return time.Time{}, fmt.Errorf("/proc/self/stat has %d fields", len(fields))
	}
	ticks, err := strconv.ParseInt(string(fields[starttime]), 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Time{}, err
	}
	const tick = time.Second / 100 // USER_HZ, the same on every Linux that Go runs on
	age := time.Duration(boot.Nano()) - time.Duration(ticks)*tick
	if age < 0 {
		return time.Time{}, fmt.Errorf("the process starts in %s", -age)
	}
	return now.Add(-age), nil
}
