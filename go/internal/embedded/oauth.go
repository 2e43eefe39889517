package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/oauth2"
	"tailscale.com/feature/oauthkey"

	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/logs"
)

// madeKey makes an auth key of the client secret.
func madeKey(ctx context.Context, c *config.Config, log *logs.Logger) (string, error) {
	if len(c.Tags) == 0 {
		return "", fault.New(fault.Config, "tags: needed by an OAuth client secret, because a key it makes is for tagged nodes")
	}
	within, cancel := context.WithTimeout(ctx, c.Timeout())
	defer cancel()
	made, err := oauthkey.Resolve(within, c.Key(), c.Tags)
	if ctx.Err() != nil {
		return "", ctx.Err()
	} else if err == nil && made == "" {
		err = errors.New("its answer has no key")
	}
	if err == nil {
		return made, nil
	}
	text := log.Redact(err.Error())
	if apiRefuses(err) {
		return "", fault.New(fault.Auth, "the OAuth API refuses to make an auth key for node %q: %s; check client_secret, that it may write auth keys, and that it may give %s",
			c.Hostname, text, strings.Join(c.Tags, ", "))
	}
	if within.Err() != nil {
		text = fmt.Sprintf("no answer within %v (%s)", c.Timeout(), text)
	}
	var unreachable *net.OpError
	if errors.As(err, &unreachable) || within.Err() != nil {
		return "", fault.For(fault.Connect, errors.New(text), "cannot reach the OAuth API, which makes an auth key of client_secret for node %q", c.Hostname)
	}
	return "", fault.For(fault.Connect, errors.New(text), "the OAuth API, which makes an auth key of client_secret for node %q, answers without one", c.Hostname)
}

var apiStatus = regexp.MustCompile(`^Status: (\d+)`) // of Tailscale's API client, which has no public type for it

// apiRefuses reports whether trying again will not change what the API has answered.
func apiRefuses(err error) bool {
	status := 0
	var token *oauth2.RetrieveError
	if errors.As(err, &token) && token.Response != nil {
		status = token.Response.StatusCode
	} else if m := apiStatus.FindStringSubmatch(err.Error()); m != nil {
		status, _ = strconv.Atoi(m[1])
	}
	return status >= 400 && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests
}
