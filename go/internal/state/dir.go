// Package state is what a node keeps between two lives: the state directory, which one node holds
// and nobody else may change, and the keys in it.
//
// Read dir.go, keys.go, tags.go, trace.go and scratch.go.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"tailnet/internal/config"
	"tailnet/internal/fault"
)

/*
A state directory holds a node's private keys. Whoever can write to it, or can put another
directory in its place, decides which node this program is, and which files it makes. So we use
one only where nobody but root and this user can do that, as sshd's StrictModes does with
authorized_keys: the directory, what is in it and every directory above it belong to one of the
two, and nobody else may write to them. Two relaxations of that:

  - A directory above it may be sticky, as /tmp is: others cannot rename what is ours in it.
  - A group may write where it holds nobody else: root's group, the user's private group (of the
    user's name, with no other member), and a group that the system does not know but this process
    is in, which is how Kubernetes' fsGroup and OpenShift hand a volume over.

trust_state_dir turns these checks off, for volumes whose mode nobody can change, such as an
emptyDir of Kubernetes (0777). What is in the directory must be regular files and directories
even then: a FIFO or a link to a device would hang tsnet or end the process.

Only root and this user can change anything between a check and tsnet's use of the path.
*/

// A Lock keeps the state directory for one node.
type Lock []*os.File

// Release unlocks by word: a forked child may still hold the open files.
func (h Lock) Release() {
	for _, f := range h {
		unix.Flock(int(f.Fd()), unix.LOCK_UN)
		f.Close()
	}
}

// lockTries bounds how often the lock file may be replaced while we take it.
const lockTries = 3

// LockDir takes the state directory for this node: nothing in tsnet stops two from
// coming up with one identity (facts-tsnet, section 2h). It also reads the state, as
// a Start that fails on it leaks the engine it has built.
func LockDir(c *config.Config) (Lock, error) {
	dir := c.StateDir
	j := &judge{us: uint32(os.Geteuid()), trust: c.TrustStateDir}
	if err := j.way(dir); err != nil { // before anything is made there
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, stateError(err, "create %s", dir, "name a directory that this user may make")
	}
	if err := j.way(dir); err != nil {
		return nil, err
	}
	for range lockTries {
		h, err := lockState(dir)
		if err != nil {
			return nil, err
		}
		if h.current(dir) {
			if err = readState(j, dir); err == nil {
				return h, nil
			}
			h.Release()
			return nil, err
		}
		h.Release()
	}
	return nil, fault.New(fault.StateLocked, "state directory %s is replaced again and again, or its tailnet.lock; "+
		"let only one program manage it, or give this node a state_dir of its own", dir)
}

// lockState locks the directory and a file in it. The directory's lock holds where somebody removes
// the file; the file's where directories cannot be locked, as on NFS.
func lockState(dir string) (h Lock, _ error) {
	for _, each := range []struct {
		name  string
		flags int
	}{{"", unix.O_RDONLY | unix.O_DIRECTORY}, {lockName, unix.O_RDWR | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY}} {
		f, err := os.OpenFile(filepath.Join(dir, each.name), each.flags, 0o600)
		if errors.Is(err, unix.ELOOP) {
			h.Release()
			return nil, fault.New(fault.Config, "state_dir: %s is a symbolic link, and would have another file made; remove it", filepath.Join(dir, lockName))
		}
		if err != nil {
			h.Release()
			return nil, stateError(err, "write to %s", dir, "name a directory that this user may write to")
		}
		h = append(h, f)
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case errors.Is(err, unix.EWOULDBLOCK):
			h.Release()
			return nil, fault.New(fault.StateLocked, "state directory %s is held by another node, in this or another process; "+
				"close that one, or give this one a hostname or state_dir of its own", dir)
		case err != nil && each.name != "":
			h.Release()
			return nil, stateError(err, "lock %s", dir, "name a directory on a local disk")
		}
	}
	return h, nil
}

const lockName = "tailnet.lock"

// current reports whether what is locked is what the path leads to.
func (h Lock) current(dir string) bool {
	for i, path := range []string{dir, filepath.Join(dir, lockName)} {
		held, err := h[i].Stat()
		if err != nil {
			return false
		}
		if there, err := os.Stat(path); err != nil || !os.SameFile(held, there) {
			return false
		}
	}
	return true
}

// readState checks what tsnet is about to read.
func readState(j *judge, dir string) error {
	if err := j.inside(dir); err != nil {
		return err
	}
	state := filepath.Join(dir, "tailscaled.state")
	var entries map[string]json.RawMessage
	b, err := os.ReadFile(state)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return stateError(err, "read %s", state, "let this user read it")
	case json.Unmarshal(b, &entries) != nil || entries == nil:
		return fault.New(fault.Config, "state_dir: %s is corrupt; restore it, or remove it to join as a new machine", state)
	}
	return nil
}

func stateError(err error, what, path, help string) error {
	f := fault.For(fault.Config, err, "state_dir: cannot "+what, path)
	if f.Code == fault.Config {
		f.Message += "; " + help
	}
	return f
}

// A judge says whether a file can be changed by nobody but root and this user.
type judge struct {
	us    uint32
	trust bool // trust_state_dir
}

// mostLinks is what Linux follows (path_resolution(7)).
const mostLinks = 40

// way checks every directory on the way to dir, and dir itself, as far as they exist.
func (j *judge) way(dir string) error {
	if j.trust {
		return nil
	}
	at, rest := "/", parts(dir)
	for links := 0; ; {
		st, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return stateError(err, "open %s", at, "name a directory that this user may use")
		}
		if mode := st.Mode(); !mode.IsDir() && mode&fs.ModeSymlink == 0 {
			return fault.New(fault.Config, "state_dir: %s is no directory, but %s; name a directory", at, kind(mode))
		}
		if err := j.changeable(at, st, len(rest) > 0); err != nil {
			return err
		}
		if st.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(at)
			if links++; err != nil || links > mostLinks {
				return fault.New(fault.Config, "state_dir: %s is one of too many symbolic links; name the directory itself", at)
			}
			at = filepath.Dir(at)
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = append(parts(target), rest...)
		}
		if len(rest) == 0 {
			return nil
		}
		at, rest = filepath.Join(at, rest[0]), rest[1:] // at has no link in it, so ".." is its parent
	}
}

func parts(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(name string) bool { return name == "" || name == "." })
}

// stateLimit bounds a file that tsnet reads whole. The largest is the map of the tailnet, which for
// ten thousand nodes has some 20 MB.
const stateLimit = 128 << 20

// inside checks what is in the directory. Taildrop's files are not read at the start, log
// buffers are not read whole, and lost+found is the file system's.
func (j *judge) inside(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil && path == dir {
			return stateError(err, "read %s", dir, "let this user read it")
		}
		if path == dir || err != nil {
			return nil
		}
		st, err := d.Info()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return stateError(err, "read %s", path, "let this user read it")
		}
		buffer := d.Name() == "tailscaled.log1.txt" || d.Name() == "tailscaled.log2.txt"
		switch mode := st.Mode(); {
		case !mode.IsRegular() && !mode.IsDir():
			return fault.New(fault.Config, "state_dir: %s is %s, and not a regular file; remove it", path, kind(mode))
		case mode.IsRegular() && !buffer && st.Size() > stateLimit:
			return fault.New(fault.Config, "state_dir: %s has %d MiB, more than a node's state can have; remove it", path, st.Size()>>20)
		}
		if err := j.changeable(path, st, false); err != nil {
			return err
		}
		if d.IsDir() && filepath.Dir(path) == dir && (d.Name() == "files" || d.Name() == "lost+found") {
			return fs.SkipDir
		}
		return nil
	})
}

func kind(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "a regular file"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "of another kind"
}

// changeable says who else can change a file, or returns nil. What is in a sticky directory can be
// renamed only by its owner.
func (j *judge) changeable(path string, st fs.FileInfo, onTheWay bool) error {
	if j.trust {
		return nil
	}
	of := st.Sys().(*syscall.Stat_t)
	why, help := "", ""
	switch perm := st.Mode().Perm(); {
	case of.Uid != 0 && of.Uid != j.us && !(onTheWay && of.Uid == overflowUID && inUserNamespace()):
		why = fmt.Sprintf("this program runs as user %s", userName(j.us))
		help = fmt.Sprintf("chown it to %d", j.us)
	case st.Mode()&fs.ModeSymlink != 0, onTheWay && st.Mode()&fs.ModeSticky != 0:
	case perm&0o002 != 0 && st.Mode()&fs.ModeSticky != 0: // /tmp, say
		why, help = "every user may write to it", "name a directory inside it, or chmod o-w it"
	case perm&0o002 != 0:
		why, help = "every user may write to it", "chmod o-w it"
	case perm&0o020 != 0 && !j.alone(of.Gid):
		why, help = "members of that group may write to it", "chmod g-w it"
	}
	if why == "" {
		return nil
	}
	return fault.New(fault.Config, "state_dir: %s belongs to user %s and group %s, with mode %04o, and %s, so others can replace this node's keys; "+
		"%s, name another state_dir, or, where nobody else has access, as to a container's own volume, set trust_state_dir=True",
		path, userName(of.Uid), groupName(of.Gid), of.Mode&0o7777, why, help)
}

// alone reports whether a group that may write holds nobody but root and this user.
func (j *judge) alone(gid uint32) bool {
	if gid == 0 {
		return true
	}
	group, err := user.LookupGroupId(id(gid))
	if errors.As(err, new(user.UnknownGroupIdError)) {
		ours, err := os.Getgroups()
		return int(gid) == os.Getegid() || err == nil && slices.Contains(ours, int(gid))
	}
	us, err2 := user.LookupId(id(j.us))
	return err == nil && err2 == nil && group.Name == us.Username && onlyMember(gid, us.Username)
}

// onlyMember reports whether /etc/group names no other member of a group. Of a directory service we
// have the group's name alone, and that is the user's.
func onlyMember(gid uint32, name string) bool {
	b, err := os.ReadFile("/etc/group")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) == 4 && fields[2] == id(gid) && fields[3] != "" && fields[3] != name {
			return false
		}
	}
	return true
}

// overflowUID is whom files of users belong to that a user namespace does not have (user_namespaces(7)).
const overflowUID = 65534

func inUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}

func id(number uint32) string { return strconv.FormatUint(uint64(number), 10) }

func userName(uid uint32) string {
	if u, err := user.LookupId(id(uid)); err == nil {
		return fmt.Sprintf("%s (%d)", u.Username, uid)
	}
	return id(uid)
}

func groupName(gid uint32) string {
	if g, err := user.LookupGroupId(id(gid)); err == nil {
		return fmt.Sprintf("%s (%d)", g.Name, gid)
	}
	return id(gid)
}
