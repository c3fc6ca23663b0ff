package model

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// machineMemory is the machine's memory in bytes, for processes without a limit
// of their own.
func machineMemory() int64 {
	const fallback = 4 << 30 // where the system does not tell
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return fallback
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "MemTotal:"); ok {
			if kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64); err == nil {
				return kib << 10
			}
		}
	}
	return fallback
}
