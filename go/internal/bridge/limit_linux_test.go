package bridge

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

// TestOfGroups reads limits out of trees as Linux shows them; tests/test_confined.py has a real
// group, of the version that the machine has.
func TestOfGroups(t *testing.T) {
	const two = "25 1 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
	for name, c := range map[string]struct {
		groups, mounts string
		files          map[string]string
		want           int64
	}{
		"version 2": {"0::/a.slice/b.service\n", two,
			map[string]string{"a.slice/b.service/memory.max": "201326592\n", "a.slice/memory.max": "max\n"}, 192 << 20},
		"a group above has less": {"0::/a.slice/b.service\n", two,
			map[string]string{"a.slice/b.service/memory.max": "201326592\n", "a.slice/memory.max": "104857600\n"}, 100 << 20},
		"memory.high slows a process down": {"0::/a\n", two,
			map[string]string{"a/memory.max": "max\n", "a/memory.high": "104857600\n"}, 100 << 20},
		"no limit": {"0::/a\n", two, map[string]string{"a/memory.max": "max\n"}, math.MaxInt64},
		"version 1, in a container": {"4:cpu,cpuacct:/x\n3:memory:/docker/abc\n0::/\n",
			"33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
				"35 31 0:32 /docker/abc /sys/fs/cgroup ro - cgroup cgroup rw,memory\n",
			map[string]string{"memory.limit_in_bytes": "201326592\n"}, 192 << 20},
		"a container with a namespace": {"0::/\n", two, map[string]string{"memory.max": "201326592\n"}, 192 << 20},
		"nothing to read":              {"", "", nil, math.MaxInt64},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write := func(file, text string) {
				file = filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			write("proc/self/cgroup", c.groups)
			write("proc/self/mountinfo", c.mounts)
			for file, text := range c.files {
				write(filepath.Join("sys/fs/cgroup", file), text)
			}
			if got := ofGroups(root); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}
