package cgroup

import (
	"testing"
	"testing/fstest"
)

func TestLimits(t *testing.T) {
	const v2mount = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
	tests := []struct {
		name   string
		files  map[string]string
		cpu    float64 // 0: not limited
		memory int64   // 0: not limited
	}{
		{name: "nothing mounted"},
		{
			name: "v2 in a cgroup namespace",
			files: map[string]string{
				"proc/self/cgroup":         "0::/\n",
				"proc/self/mountinfo":      v2mount,
				"sys/fs/cgroup/cpu.max":    "50000 100000\n",
				"sys/fs/cgroup/memory.max": "268435456\n",
			},
			cpu: 0.5, memory: 268435456,
		},
		{
			name: "v2 nested, the parents are tighter",
			files: map[string]string{
				"proc/self/cgroup":                          "0::/kubepods/pod1/main\n",
				"proc/self/mountinfo":                       v2mount,
				"sys/fs/cgroup/kubepods/pod1/main/cpu.max":  "400000 100000\n",
				"sys/fs/cgroup/kubepods/pod1/cpu.max":       "150000 100000\n",
				"sys/fs/cgroup/kubepods/cpu.max":            "max 100000\n",
				"sys/fs/cgroup/kubepods/pod1/memory.max":    "max\n",
				"sys/fs/cgroup/kubepods/memory.max":         "1000\n",
				"sys/fs/cgroup/kubepods/other/cpu.max":      "1000 100000\n",
				"sys/fs/cgroup/kubepods/pod1/main/junk.max": "1\n",
			},
			cpu: 1.5, memory: 1000,
		},
		{
			name: "v2 without limits",
			files: map[string]string{
				"proc/self/cgroup":         "0::/\n",
				"proc/self/mountinfo":      v2mount,
				"sys/fs/cgroup/cpu.max":    "max 100000\n",
				"sys/fs/cgroup/memory.max": "max\n",
			},
		},
		{
			name: "v2 with the container's group mounted at the root",
			files: map[string]string{
				"proc/self/cgroup":               "0::/docker/abc/inner\n",
				"proc/self/mountinfo":            "30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
				"sys/fs/cgroup/cpu.max":          "300000 100000\n",
				"sys/fs/cgroup/memory.max":       "300\n",
				"sys/fs/cgroup/inner/memory.max": "200\n",
			},
			cpu: 3, memory: 200,
		},
		{
			name: "v2 with a path out of the namespace",
			files: map[string]string{
				"proc/self/cgroup":      "0::/../sibling\n",
				"proc/self/mountinfo":   "30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
				"sys/fs/cgroup/cpu.max": "100000 100000\n",
			},
			cpu: 1,
		},
		{
			name: "v1",
			files: map[string]string{
				"proc/self/cgroup": "5:memory:/a/b\n4:cpu,cpuacct:/a/b\n3:cpuset:/\n",
				"proc/self/mountinfo": "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
					"32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
					"33 30 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n",
				"sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us":   "-1\n",
				"sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us":  "100000\n",
				"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us":     "250000\n",
				"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us":    "100000\n",
				"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes":   "9223372036854771712\n",
				"sys/fs/cgroup/memory/a/memory.limit_in_bytes":     "4096\n",
				"sys/fs/cgroup/memory/memory.limit_in_bytes":       "9223372036854771712\n",
				"sys/fs/cgroup/cpuset/cpu.cfs_quota_us":            "1\n",
				"sys/fs/cgroup/cpu,cpuacct/elsewhere/cpu.whatever": "1\n",
			},
			cpu: 2.5, memory: 4096,
		},
		{
			name: "hybrid: CPU by v1, memory by v2",
			files: map[string]string{
				"proc/self/cgroup": "4:cpu:/x\n0::/x\n",
				"proc/self/mountinfo": "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
					"32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
				"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us":  "20000\n",
				"sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
				"sys/fs/cgroup/unified/x/memory.max":    "77\n",
			},
			cpu: 0.2, memory: 77,
		},
		{
			name: "mount point with a space",
			files: map[string]string{
				"proc/self/cgroup":    "0::/\n",
				"proc/self/mountinfo": "30 23 0:26 / /c\\040g rw - cgroup2 cgroup2 rw\n",
				"c g/memory.max":      "5\n",
			},
			memory: 5,
		},
		{
			name: "junk",
			files: map[string]string{
				"proc/self/cgroup":         "\n:::\nnonsense\n0:\n0::/\n",
				"proc/self/mountinfo":      "\n - \n1 2 3\n1 2 3 4 5 - cgroup2\n" + v2mount,
				"sys/fs/cgroup/cpu.max":    "a lot\n",
				"sys/fs/cgroup/memory.max": "-5\n",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := fstest.MapFS{}
			for name, content := range tt.files {
				files[name] = &fstest.MapFile{Data: []byte(content)}
			}
			cpu, ok := tree{files}.cpu()
			if ok != (tt.cpu != 0) || ok && cpu != tt.cpu {
				t.Errorf("cpu: got %v, %v; want %v", cpu, ok, tt.cpu)
			}
			memory, ok := tree{files}.memory()
			if ok != (tt.memory != 0) || ok && memory != tt.memory {
				t.Errorf("memory: got %v, %v; want %v", memory, ok, tt.memory)
			}
		})
	}
}

// The machine that runs the tests may have limits or not; whatever it has must make sense.
func TestThisMachine(t *testing.T) {
	if cpus, ok := CPU(); ok && cpus <= 0 {
		t.Errorf("CPU: got %v, want more than none", cpus)
	}
	if bytes, ok := Memory(); ok && bytes <= 0 {
		t.Errorf("Memory: got %v, want more than none", bytes)
	}
}
