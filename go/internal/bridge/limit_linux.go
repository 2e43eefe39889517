package bridge

import (
	"bytes"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// allowed returns how many bytes this process may have, as far as Linux limits it: its control
// groups, `ulimit -v` or `ulimit -d`. Without a limit that is math.MaxInt64.
func allowed() int64 {
	bytes := ofGroups("/")
	for name, resource := range map[string]int{"VmSize:": unix.RLIMIT_AS, "VmData:": unix.RLIMIT_DATA} {
		var limit unix.Rlimit
		if unix.Getrlimit(resource, &limit) == nil && limit.Cur < math.MaxInt64 {
			// What Go has reserved is in what is used, and room for its heap in what it has reserved.
			bytes = min(bytes, max(int64(limit.Cur)-used(name), 0))
		}
	}
	return bytes
}

// used reads one line of /proc/self/status.
func used(name string) int64 {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			n, _ := strconv.ParseInt(kib, 10, 64)
			return n << 10
		}
	}
	return 0
}

// ofGroups returns the least memory limit of this process's control groups: its own and those
// that hold it, as far up as this process can see. Both versions of cgroups may be mounted.
func ofGroups(root string) int64 {
	least := int64(math.MaxInt64)
	groups, _ := os.ReadFile(path.Join(root, "proc/self/cgroup"))
	mounts, _ := os.ReadFile(path.Join(root, "proc/self/mountinfo"))
	for line := range strings.Lines(string(groups)) { // hierarchy:controllers:/path
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		files := []string{"memory.max", "memory.high"}
		if fields[0] != "0" {
			if !slices.Contains(strings.Split(fields[1], ","), "memory") {
				continue
			}
			files = []string{"memory.limit_in_bytes"}
		}
		mounted, at := mountOf(string(mounts), fields[0] == "0")
		if at == "" {
			continue
		}
		// A container sees the mount begin at its own group, whose path may be the host's.
		inside, ok := strings.CutPrefix(fields[2], strings.TrimSuffix(mounted, "/"))
		if !ok {
			inside = ""
		}
		for dir := path.Join("/", inside); ; dir = path.Dir(dir) {
			for _, file := range files {
				text, err := os.ReadFile(path.Join(root, at, dir, file))
				if err != nil {
					continue
				}
				if n, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64); err == nil { // not "max"
					least = min(least, n)
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}

// mountOf returns which group is mounted, and where: of version 2, or of version 1's memory
// controller (proc_pid_mountinfo(5)).
func mountOf(mounts string, two bool) (group, at string) {
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		what, how := strings.Fields(before), strings.Fields(after)
		if len(what) < 5 || len(how) < 3 {
			continue
		}
		if two && how[0] == "cgroup2" || !two && how[0] == "cgroup" && slices.Contains(strings.Split(how[2], ","), "memory") {
			return what[3], what[4]
		}
	}
	return "", ""
}
