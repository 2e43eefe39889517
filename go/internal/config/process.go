package config

/*
#include <stdlib.h>
*/
import "C"

import (
	_ "embed"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"tailscale.com/envknob"
	"tailscale.com/net/netns"
	"tailscale.com/net/tshttpproxy"

	"tailnet/internal/fault"
)

// Process is what Tailscale's code keeps once per process, so that two nodes cannot
// differ in it.
type Process struct {
	LogUpload bool              `json:"log_upload"` // send logs to the vendor
	Env       map[string]string `json:"env"`        // the TS_*, proxy and certificate variables as Python sees them
}

var process struct {
	sync.Mutex
	fixed *Process
}

// Fix makes p the settings of this process, or says why it cannot.
func (p Process) Fix() error {
	process.Lock()
	defer process.Unlock()
	if now := process.fixed; now != nil {
		if now.LogUpload != p.LogUpload {
			return fault.New(fault.Config, "log_upload: is %v for this whole process since its first node, so this node cannot have %v; give all nodes of a process the same",
				now.LogUpload, p.LogUpload)
		}
		if changed := differing(now.Env, p.Env); len(changed) > 0 {
			return fault.New(fault.Config, "environment: %s changed after this process's first node, and Tailscale's code reads such variables once; "+
				"set them, or start the offline tailnet, before the first node", strings.Join(changed, ", "))
		}
		return nil
	}
	// Go sees the environment the process was started with, Python's os.environ may
	// have moved on. Python's view counts; and nothing may be left that tsnet would
	// fall back to behind the configuration's back (TS_AUTHKEY and its kin).
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if _, keep := p.Env[name]; !keep && (strings.HasPrefix(name, "TS_") || strings.HasPrefix(name, "TSNET_") || proxyVariables[strings.ToUpper(name)]) {
			inGoOnly(name, func() { envknob.Setenv(name, ""); os.Unsetenv(name) })
		}
	}
	for name, value := range p.Env {
		inGoOnly(name, func() { envknob.Setenv(name, value) })
	}
	// Every node asks for the directory of tailscaled's logs, and then writes none, for this build
	// has no socket statistics. Asking makes one: /var/lib/tailscale, ~/.local/share/tailscale, or
	// where there is no home a tailscaled-log-* in /tmp that nobody removes. One that is there
	// already is taken as it is.
	if p.Env["TS_LOGS_DIR"] == "" {
		inGoOnly("TS_LOGS_DIR", func() { envknob.Setenv("TS_LOGS_DIR", "/") })
	}
	// A process without CAP_NET_ADMIN binds its sockets to the device of the default route, and then
	// reaches nothing on loopback: each node of an offline tailnet would wait 3 s for its STUN server.
	if p.Env["TS_BIND_TO_NO_DEVICE_FOR_TEST"] == "true" {
		netns.SetEnabled(false)
	}
	// A node whose tailnet permits it would run with the network map of its last life before control
	// has answered, and although its key has expired or its machine was removed meanwhile.
	if _, ok := p.Env[cachedMap]; !ok {
		inGoOnly(cachedMap, func() { envknob.Setenv(cachedMap, "false") })
	}
	if !p.LogUpload {
		inGoOnly("TS_NO_LOGS_NO_SUPPORT", envknob.SetNoLogsNoSupport)
	}
	process.fixed = &Process{p.LogUpload, maps.Clone(p.Env)}
	return nil
}

// NeedNoNetwork lets nodes reach a control server that is on this machine's loopback, or behind
// a proxy there. Tailscale's code pauses its client, and drops every packet, while no interface
// but the loopback has an address: in a network namespace with "lo" alone, or a laptop that is
// offline. The knob is read each time, and holds for the whole process: without the pause a node
// of another server tries it in vain meanwhile, and finds it again within 30 s.
func NeedNoNetwork(controlURL string) {
	u, err := url.Parse(controlURL)
	if err != nil {
		return
	}
	if proxy, err := tshttpproxy.ProxyFromEnvironment(&http.Request{URL: u}); err == nil && proxy != nil {
		u = proxy
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if u.Hostname() == "localhost" || err == nil && (ip.IsLoopback() || ip.IsLinkLocalUnicast()) {
		const knob = "TS_ASSUME_NETWORK_UP_FOR_TEST"
		inGoOnly(knob, func() { envknob.Setenv(knob, "true") })
	}
}

// cachedMap is whether a node keeps its network map on disk and begins with that.
const cachedMap = "TS_USE_CACHED_NETMAP"

var proxyVariables = map[string]bool{"HTTP_PROXY": true, "HTTPS_PROXY": true, "NO_PROXY": true, "ALL_PROXY": true}

// inGoOnly lets change set a variable in Go's copy of the environment. With cgo that
// also sets it in C's, which Python's child processes inherit; there it is put back.
func inGoOnly(name string, change func()) {
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	var before *C.char
	if v := C.getenv(cname); v != nil {
		before = C.CString(C.GoString(v))
		defer C.free(unsafe.Pointer(before))
	}
	change()
	if before == nil {
		C.unsetenv(cname)
	} else {
		C.setenv(cname, before, 1)
	}
}

// cgetenv is getenv(3).
func cgetenv(name string) string {
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	return C.GoString(C.getenv(cname))
}

// variables are the TS_* variables that Tailscale's code reads. process_test.go compares them
// with its source.
//
//go:embed variables.txt
var variables string

// differing returns the variables that Tailscale's or Go's code reads and that have another
// value in b than in a. Programs have TS_* variables of their own, which are nobody's business.
func differing(a, b map[string]string) (names []string) {
	read := map[string]bool{}
	for _, name := range strings.Fields(variables) {
		read[name] = true
	}
	both := maps.Clone(a)
	maps.Copy(both, b)
	for name := range both {
		before, was := a[name]
		now, is := b[name]
		if (was != is || before != now) && (read[name] || !strings.HasPrefix(name, "TS_")) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
