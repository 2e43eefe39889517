package sidecar

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/logs"
	"tailnet/internal/session"
	"tailnet/internal/state"
)

// A child is a tailscaled of our own: in userspace mode, at a private socket, on a state
// directory that it alone holds. It ends with us, also where we are killed.
type child struct {
	socket  string
	cmd     *exec.Cmd
	alive   *os.File // the daemon ends when nobody holds this any more
	scratch string
	lock    state.Lock // of it
	before  *state.Trace
	state   state.Lock // the state directory
	done    chan struct{}
	said    chan struct{} // closed when its last line has been read
	joined  atomic.Bool   // another up() will not help
	redact  func(string) string

	mu   sync.Mutex
	last []string // its last lines, for what killed it
	err  error    // how it ended
}

const (
	lastLines = 5

	// endLimit: tailscaled takes some ten milliseconds, and as long as control lets it
	// wait where it logs an ephemeral node out.
	endLimit = 2 * time.Second

	// lastWordsLimit is how long what a dead daemon said may take to arrive.
	lastWordsLimit = 200 * time.Millisecond

	// aliveFD is where the child finds the pipe: the first of ExtraFiles.
	aliveFD = 3
)

// resolvBackup is there while a tailscaled manages the machine's resolv.conf by itself
// (tailscale.com/net/dns, direct.go). Every tailscaled that starts as root puts it back in
// place, one in userspace mode too, and the machine's own would lose its names.
const resolvBackup = "/etc/resolv.pre-tailscale-backup.conf"

// startChild starts a daemon. It does not answer yet.
func startChild(c *config.Config, log *logs.Logger) (_ *child, err error) {
	path := c.TailscaledPath // found by Python, whose PATH Go does not see
	if path == "" {
		return nil, fault.New(fault.NotRunning, "there is no tailscaled on PATH to run; install Tailscale (https://tailscale.com/download), "+
			"set tailscaled_path, or use backend=\"embedded\", which needs none")
	}
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return nil, fault.New(fault.NotRunning, "cannot run %s: it is a directory; set tailscaled_path to a tailscaled", path)
	}
	if _, err := os.Stat(resolvBackup); err == nil && os.Geteuid() == 0 {
		return nil, fault.New(fault.Unsupported, "a tailscaled run as root would undo what this machine's own one has made of /etc/resolv.conf; "+
			"run this program as another user, or use that daemon (tailscaled_managed=False) or backend=\"embedded\"")
	}
	if err := config.CheckFamilies(); err != nil { // the daemon will be under the same filter
		return nil, err
	}
	k := &child{done: make(chan struct{}), said: make(chan struct{}), redact: log.Redact}
	defer func() {
		if err != nil {
			k.release()
		}
	}()
	if k.scratch, k.lock, err = state.MakeScratch(c.Hostname); err != nil {
		return nil, err
	}
	k.socket = filepath.Join(k.scratch, "tailscaled.sock")
	k.before = state.Traced("")
	args := []string{"--tun=userspace-networking", "--socket=" + k.socket, "--port=" + strconv.Itoa(int(c.Port))}
	if c.Ephemeral || c.StateDir == "" {
		args = append(args, "--state=mem:", "--statedir="+k.scratch)
	} else {
		k.before = state.Traced(c.StateDir)
		if k.state, err = state.LockDir(c); err != nil {
			return nil, err
		}
		k.before.Read()
		args = append(args, "--statedir="+c.StateDir)
	}
	if !c.Process.LogUpload {
		args = append(args, "--no-logs-no-support")
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fault.For(fault.Internal, err, "no pipe to tailscaled")
	}
	k.alive = write
	defer read.Close()
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fault.For(fault.Internal, err, "no pipe from tailscaled")
	}
	defer in.Close()
	k.cmd = exec.Command(path, args...)
	k.cmd.Stdout, k.cmd.Stderr = in, in
	k.cmd.ExtraFiles = []*os.File{read}
	k.cmd.Env = childEnv(cmp.Or(c.StateDir, k.scratch))
	k.cmd.SysProcAttr = childAttr() // a process group of its own: Ctrl-C is for us, who then end it in order
	started := make(chan error, 1)
	bridge.Go(func() {
		// The kernel sends the signal of childAttr when the thread ends that started it.
		runtime.LockOSThread()
		err := k.cmd.Start()
		started <- err
		if err == nil {
			k.wait()
		}
	})
	if err = <-started; err != nil {
		out.Close()
		f := fault.For(fault.NotRunning, err, "cannot run %s", path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOEXEC) {
			f.Message += "; set tailscaled_path to a tailscaled"
		}
		return nil, f
	}
	bridge.Go(func() { k.passOn(out, log.At("debug")) })
	return k, nil
}

// childEnv is Go's environment, which holds what Python's holds (process.go), without what
// is between us and whoever started us.
func childEnv(logs string) []string {
	env := []string{
		"TS_PARENT_DEATH_FD=" + strconv.Itoa(aliveFD), // tailscaled.go: it exits when the pipe is closed
		"TS_LOGS_DIR=" + logs,                         // else it finds the machine's own
		"TS_DISABLE_TAILDROP=true",                    // as in this process (taildrop.go)
	}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID", "TS_PARENT_DEATH_FD", "TS_DISABLE_TAILDROP",
			"TS_LOGS_DIR", "STATE_DIRECTORY":
		default:
			env = append(env, kv)
		}
	}
	return env
}

var timestamp = regexp.MustCompile(`^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `)

// passOn passes the daemon's lines to the log.
func (k *child) passOn(out io.ReadCloser, logf func(string, ...any)) {
	defer close(k.said)
	defer out.Close()
	lines := bufio.NewReaderSize(out, 1<<16)
	for {
		b, _, err := lines.ReadLine() // of longer lines, a part each
		if err != nil {
			return
		}
		line := timestamp.ReplaceAllString(string(b), "")
		k.mu.Lock()
		k.last = append(k.last, line)[max(0, len(k.last)+1-lastLines):]
		k.mu.Unlock()
		logf("tailscaled: %s", line)
	}
}

func (k *child) wait() {
	err := k.cmd.Wait()
	select {
	case <-k.said:
	case <-time.After(lastWordsLimit): // a child of its own may have its output still
	}
	how := "without an error"
	if err != nil {
		how = err.Error()
	}
	then, words := k.then(), k.lastWords()
	k.mu.Lock()
	k.err = fault.New(fault.NotRunning, "the tailscaled started for this node has ended (%s); %s; its last words: %s", how, then, words)
	k.mu.Unlock()
	close(k.done)
}

func (k *child) lastWords() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return cmp.Or(k.redact(strings.Join(k.last, "; ")), "none")
}

// absent says why the daemon does not answer.
func (k *child) absent(err error) error {
	if !session.Silent(err) {
		select { // how it ended is known a moment later
		case <-k.done:
		case <-time.After(2 * lastWordsLimit):
		}
	}
	if ended := k.ended(); ended != nil {
		return ended
	}
	return fault.New(fault.NotRunning, "the tailscaled started for this node (process %d) does not answer: %v; %s; its last words: %s",
		k.cmd.Process.Pid, err, k.then(), k.lastWords())
}

// then says how there can be another.
func (k *child) then() string {
	if k.joined.Load() {
		return "close() this node, then make a new Tailnet, which starts another"
	}
	return "up() starts another"
}

// ended says how the daemon ended, or returns nil where it runs.
func (k *child) ended() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// stop ends the daemon, and gives back what it had.
func (k *child) stop() {
	if k == nil {
		return
	}
	syscall.Kill(-k.cmd.Process.Pid, syscall.SIGTERM) // its group: it may be a script that runs the daemon
	select {
	case <-k.done:
	case <-time.After(endLimit):
		syscall.Kill(-k.cmd.Process.Pid, syscall.SIGKILL)
		<-k.done
	}
	k.release()
}

func (k *child) release() {
	if k.alive != nil {
		k.alive.Close()
	}
	k.before.Undo()
	k.state.Release()
	if k.scratch != "" {
		os.RemoveAll(k.scratch)
	}
	k.lock.Release()
}
