package session

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"tailscale.com/health"
	"tailscale.com/ipn"

	"tailnet/internal/config"
	"tailnet/internal/fault"
)

/*
What is seen on the IPN bus while a node joins, and what it means (design, section 4):

	ErrMessage, "exit was ordered"                    Auth: the server's order, by build_patches.py
	ErrMessage, "tailnet requires logging"            Unsupported
	ErrMessage, rate limited (HTTP 429)               Connect, with retry_after
	ErrMessage, what it sent is no key                Connect: a proxy or a login page answered
	ErrMessage, any other                             Auth: it is control's answer to a registration
	health login-state, HTTP 400/401/403 at register  Auth: headscale says it this way
	health login-state, any other way to control      Connect, with that cause
	health login-state, any other words               as ErrMessage, which follows it
	NeedsLogin with a URL                             LoginRequired
	NeedsMachineAuth that stays                       ApprovalRequired
	NeedsLogin or NeedsMachineAuth for a moment       nothing: every start passes through them
	Running                                           up

The bus says nothing at all about a control server that does not answer; awaitRunning
has a timer for that.
*/

// grace: NeedsMachineAuth shows for a moment in ordinary starts too, and NeedsLogin
// for a moment after the person has logged in.
const Grace = time.Second

// progress is what the bus has said so far.
type progress struct {
	state      ipn.State
	url        string // where a person can log in
	loginKnown string // the URL the caller knows about already
	errMessage string
	loginError string // health's login-state
	heard      bool   // ErrMessage of this login cannot have been missed, and health may be late with an earlier one's
	stale      string // what that was before we logged in: an answer to another key
}

// note takes a notification in. Absent fields mean "as before"; health comes whole.
func (p *progress) note(n ipn.Notify) {
	if n.State != nil {
		p.state = *n.State
	}
	if n.BrowseToURL != nil && *n.BrowseToURL != "" {
		p.url = *n.BrowseToURL
	}
	if n.LoginFinished != nil {
		p.url = ""
	}
	if n.ErrMessage != nil {
		p.errMessage = *n.ErrMessage
	}
	if n.Health != nil {
		p.loginError = n.Health.Warnings[health.LoginStateWarnable.Code].Args[health.ArgError]
		if strings.HasSuffix(p.loginError, context.Canceled.Error()) {
			p.loginError = "" // of an attempt that a newer one took the place of
		}
		if p.stale != "" && p.loginError == p.stale {
			p.loginError = "" // health comes whole with any change, and keeps this until there is another
		} else if p.loginError != "" {
			p.stale = ""
		}
	}
}

// begins takes in how things are before we log in. That control cannot be reached is as true
// with one key as with another.
func (p *progress) begins(n ipn.Notify) {
	p.note(n)
	if p.loginError != "" && (refusedRegistration.MatchString(p.loginError) || !wayToControl.MatchString(p.loginError)) {
		p.stale, p.loginError = p.loginError, ""
	}
	p.url, p.errMessage, p.heard = "", "", true
}

func (p *progress) waitsForPerson() bool {
	return p.state == ipn.NeedsMachineAuth || p.state == ipn.NeedsLogin && p.url != ""
}

// decide applies the table. While a person is awaited, what cannot be reached may
// come back, and the URL the caller knows decides nothing.
func (p *progress) decide(c *config.Config, waitForPerson bool) (running bool, _ *fault.Error) {
	// Health has the same words a moment before ErrMessage does (controlclient,
	// authRoutine), and has them still for who came too late for that.
	said, onItsWay := p.errMessage, wayToControl.MatchString(p.loginError)
	if said == "" && !p.heard && !onItsWay {
		said = p.loginError
	}
	switch {
	case p.state == ipn.Running:
		return true, nil
	case strings.HasPrefix(said, ExitWords):
		return false, ExitOrdered(c, said)
	case strings.Contains(said, "requires logging to be enabled"):
		return false, fault.New(fault.Unsupported, "this tailnet admits only nodes that send their logs to Tailscale; set log_upload=True")
	case strings.Contains(said, "rate limited"):
		return false, rateLimited(c, said)
	case strings.Contains(said, "key hex has the wrong size"):
		said, _, _ = strings.Cut(said, "\n")
		return false, fault.New(fault.Connect, "what answers as %s is no control server (%s); check control_url, and whether a proxy or a network's login page answers instead", c.ControlName(), said)
	case said != "":
		return false, refused(c, said)
	case refusedRegistration.MatchString(p.loginError):
		return false, refused(c, p.loginError)
	case lacks(p.loginError),
		p.loginError != "" && !waitForPerson && (onItsWay || !p.heard): // else ErrMessage comes yet
		return false, unreachable(c, p.loginError)
	case p.state == ipn.NeedsLogin && p.url != "" && p.url != p.loginKnown:
		e := fault.New(fault.LoginRequired, "node %q has no usable auth key; a person must log in at %s", c.Hostname, p.url)
		e.URL = p.url
		return false, e
	}
	return false, nil
}

// rateLimited has the delay as a number, and in the message as a person reads it. Whether somebody
// tries again is for the caller to say, not for Tailscale's code.
func rateLimited(c *config.Config, said string) *fault.Error {
	seconds := retryAfter(said)
	when := "later"
	if seconds > 0 {
		when = fmt.Sprintf("in %.0f s", math.Ceil(seconds))
		said = willRetry.ReplaceAllString(said, "")
	}
	e := fault.New(fault.Connect, "%s: %s; try again %s", c.ControlName(), said, when)
	e.RetryAfter = seconds
	return e
}

var willRetry = regexp.MustCompile(`[;,:]? *\(?(will )?retry after \S+$`)

func refused(c *config.Config, said string) *fault.Error {
	help := "give it a valid auth key"
	switch {
	case c.Key() == "":
		help = "it has no auth key: set TS_AUTHKEY, auth_key or auth_key_file"
	case c.HasSecret():
		help = "check client_secret, and the tags that it may give"
	case len(c.Tags) > 0 && c.Backend == "embedded":
		help += ", and tags that the key's owner may use"
	}
	return fault.New(fault.Auth, "%s refused node %q: %s; %s", c.ControlName(), c.Hostname, said, help)
}

func unapproved(c *config.Config) *fault.Error {
	help := "call up() again then"
	if c.HasSecret() {
		help += "; preauthorized=True makes keys whose nodes need no approval"
	}
	return fault.New(fault.ApprovalRequired, "machine %q has logged in and waits for an admin of the tailnet to approve it; %s", c.Hostname, help)
}

func unreachable(c *config.Config, said string) *fault.Error {
	if lacks(said) {
		return fault.For(fault.Connect, errors.New(said), "cannot reach %s", c.ControlName())
	}
	help := "check control_url, this machine's network and the server"
	if strings.Contains(said, "unknown authority") {
		help = "let this machine trust its authority, or correct control_url"
	}
	return fault.New(fault.Connect, "cannot reach %s: %s; %s", c.ControlName(), said, help)
}

// lacks reports whether this machine has run out of something; the server's own words may say
// that of the server.
func lacks(said string) bool {
	return !registered.MatchString(said) && fault.Lacks(errors.New(said))
}

var registered = regexp.MustCompile(`^register request: http \d`)

// What did not get as far as an answer to the registration begins so, as do errors of
// this side (controlclient/direct.go, doLogin); anything else is control's own words.
var wayToControl = regexp.MustCompile(`^(fetch control key|register request|getNoiseClient|getMachinePrivKey|` +
	`hostinfo|control server is too old|weird|context|EOF)|: EOF$|context (canceled|deadline exceeded)$`)

// An answer of control to a registration that trying again will not change.
var refusedRegistration = regexp.MustCompile(`^register request: http (400|401|403)\b`)

var retryAfterText = regexp.MustCompile(`retry after (\S+?)[).]*$`)

// retryAfter reads the delay, in seconds, out of Tailscale's text, the only place that has it.
// The server may have written that text, so anything but a finite, positive number is no delay:
// JSON has no NaN and no infinity, and a caller must not wait for them.
func retryAfter(text string) float64 {
	m := retryAfterText.FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	var seconds float64
	if d, err := time.ParseDuration(m[1]); err == nil {
		seconds = d.Seconds()
	} else if seconds, err = strconv.ParseFloat(m[1], 64); err != nil {
		return 0
	}
	if !(seconds > 0) || math.IsInf(seconds, 0) {
		return 0
	}
	return seconds
}

// ExitWords begin the control server's order to exit, in the words of build_patches.py.
const ExitWords = "exit was ordered"

// ExitOrdered is the error of a node that was told to end the process, and leaves the tailnet instead.
func ExitOrdered(c *config.Config, said string) *fault.Error {
	return fault.New(fault.Auth, "%s ordered the program of node %q to exit (%s); the node has left the tailnet instead: ask those who run the server, and make a new Tailnet to join again",
		c.ControlName(), c.Hostname, said)
}
