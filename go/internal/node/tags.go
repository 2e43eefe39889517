package node

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tailscale.com/atomicfile"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/types/key"

	"tailnet/internal/fault"
)

/*
A control server gives a node the tags it asks for when it registers, and lets its key expire where
it asks for others later (testcontrol's handleTagTransitionLocked says so of Tailscale's). So a node
that has joined with other tags than the configuration has now registers anew, as `tailscale up
--advertise-tags` does: with the auth key, or by a person.
*/

// tagsFile has the tags that the node last joined with. The preferences have new ones as soon as
// they are asked for, whatever the server's answer.
const tagsFile = "tailnet.tags"

// joinedTags returns the tags that the node last joined with; preferred are those of its
// preferences, for a state of tsnet's, or of a version before this.
func joinedTags(c *Config, preferred []string) (tags []string) {
	if c.StateDir == "" {
		return c.Tags
	}
	if text, err := os.ReadFile(filepath.Join(c.StateDir, tagsFile)); err == nil && json.Unmarshal(text, &tags) == nil {
		return tags
	}
	return preferred
}

// keepTags is told that the node has joined with the tags that it asks for.
func keepTags(c *Config) {
	if c.StateDir == "" {
		return
	}
	if text, err := json.Marshal(c.Tags); err == nil {
		atomicfile.WriteFile(filepath.Join(c.StateDir, tagsFile), text, 0o600)
	}
}

func sameTags(a, b []string) bool { return len(lackedTags(a, b)) == 0 && len(lackedTags(b, a)) == 0 }

// lackedTags returns those of want that are not in has.
func lackedTags(want, has []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(tag string) bool { return slices.Contains(has, tag) })
}

// otherTags says of an error of a node that asks for other tags than it has what those are.
func otherTags(c *Config, err error, had []string) error {
	if fault.Is(err, fault.Auth) || fault.Is(err, fault.LoginRequired) {
		f := *fault.Of(err)
		f.Message += "; it has joined with " + listed(had) + ", and the configuration now has " + listed(c.Tags) +
			": give it an auth key that may give these, or the former ones back"
		return &f
	}
	return err
}

func listed(tags []string) string {
	if len(tags) == 0 {
		return "no tags"
	}
	return strings.Join(tags, ", ")
}

// checkTags compares the tags of a node that runs with those of the configuration. Where it has
// asked for others than it had, it waits for the network map of its new node key. The server may
// have taken tags away since a node joined; that is a warning.
func (s *session) checkTags(ctx context.Context, c *Config, log *logger, st *ipnstate.Status, old key.NodePublic) error {
	renewed := !old.IsZero()
	for began := time.Now(); renewed && st.Self.PublicKey == old && time.Since(began) < c.connectTimeout(); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
		var err error
		if st, err = s.local.StatusWithoutPeers(ctx); err != nil {
			return s.unanswered("status", err)
		}
	}
	var has []string
	if st.Self.Tags != nil {
		has = st.Self.Tags.AsSlice()
	}
	lacks := lackedTags(c.Tags, has)
	if len(lacks) == 0 {
		return nil
	}
	if renewed {
		return fault.New(fault.Auth, "%s let node %q in with %s, and not with %s", c.controlName(), c.Hostname, listed(has), listed(lacks))
	}
	log.at("warning")("%s gives node %q %s, and not %s; let the tailnet's policy and the auth key give them", c.controlName(), c.Hostname, listed(has), listed(lacks))
	return nil
}
