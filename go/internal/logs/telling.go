package logs

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

/*
What Tailscale's code tells a person at the default level, in words that hold for this library.
*/

// UserLogf is what tsnet tells its user with. Some of its advice is to set variables that have no
// effect here (process.go).
func (l *Logger) UserLogf(state string) func(string, ...any) {
	info := l.At("info")
	var login atomic.Value // tsnet says every 5 s where to log in
	return func(format string, args ...any) {
		switch {
		case strings.HasPrefix(format, "Authkey is set; but state is"):
			info("this node has joined before, with the state in %s, so the auth key is not used; to join as a new machine, give it another state_dir",
				state)
		case strings.HasPrefix(format, "To start this tsnet server"):
			if len(args) == 1 && login.Swap(args[0]) != args[0] {
				info("a person must log in at %v; or give a key, as auth_key, auth_key_file or TS_AUTHKEY", args[0])
			}
		default:
			info(format, args...)
		}
	}
}

// standard is what is known of lines on Go's standard logger, which belong to no node: they are
// about TLS, and name the server.
var standard = struct {
	sync.Mutex
	hosts map[*Logger]string // of the control servers of the nodes that there are
	said  map[saying]time.Time
}{hosts: map[*Logger]string{}, said: map[saying]time.Time{}}

type saying struct {
	by   *Logger // nil: of no node
	text string
}

const (
	sayAgain = time.Hour
	mostSaid = 1000
)

// Hears gives l the lines about the node's control server, until the returned function is called.
func (l *Logger) Hears(controlURL string) (stop func()) {
	u, err := url.Parse(controlURL)
	if err != nil {
		return func() {}
	}
	standard.Lock()
	defer standard.Unlock()
	standard.hosts[l] = u.Hostname()
	return func() {
		standard.Lock()
		defer standard.Unlock()
		delete(standard.hosts, l)
		for each := range standard.said {
			if each.by == l {
				delete(standard.said, each)
			}
		}
	}
}

// certificate matches what tlsdial says of a server's: at every connection, where it is trusted and
// signed by itself; once in a process, where it is not trusted, which up() says too.
var certificate = regexp.MustCompile(`^tlsdial: (?:warning|error): server cert for (".*?") (?:(failed .*)|passed x509 validation but is (self-signed by .*))$`)

// tell passes on a line of the standard logger, once an hour to each node that it is about.
func tell(text string) {
	if m := certificate.FindStringSubmatch(text); m != nil {
		text = "the certificate of " + m[1] + " is trusted, and " + m[3]
		if m[2] != "" {
			text = "the certificate of " + m[1] + " is not trusted: it " + m[2]
		}
	}
	var news []saying
	standard.Lock()
	for l, host := range standard.hosts {
		name := strconv.Quote(host)
		if _, err := netip.ParseAddr(host); err == nil {
			name = `""` // a server that is named by its address is asked for no name
		}
		if strings.Contains(text, name) {
			news = append(news, saying{l, strings.Replace(text, name, strconv.Quote(host), 1)})
		}
	}
	if news == nil {
		news = []saying{{nil, text}}
	}
	if len(standard.said) > mostSaid {
		clear(standard.said)
	}
	now := time.Now()
	news = slices.DeleteFunc(news, func(each saying) bool {
		last, ok := standard.said[each]
		known := ok && now.Sub(last) < sayAgain
		if !known {
			standard.said[each] = now
		}
		return known
	})
	standard.Unlock()
	for _, each := range news {
		if each.by == nil {
			Write("", "warning", each.text)
		} else {
			each.by.At("warning")("%s", each.text)
		}
	}
}
