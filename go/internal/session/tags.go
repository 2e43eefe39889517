package session

import (
	"context"
	"slices"
	"strings"
	"time"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/types/key"

	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/logs"
)

// SameTags compares two lists of tags in any order.
func SameTags(a, b []string) bool { return len(lackedTags(a, b)) == 0 && len(lackedTags(b, a)) == 0 }

// lackedTags returns those of want that are not in has.
func lackedTags(want, has []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(tag string) bool { return slices.Contains(has, tag) })
}

// OtherTags says of an error of a node that asks for other tags than it has what those are.
func OtherTags(c *config.Config, err error, had []string) error {
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

// CheckTags compares the tags of a node that runs with those of the configuration. Where it has
// asked for others than it had, it waits for the network map of its new node key. The server may
// have taken tags away since a node joined; that is a warning.
func (s *Session) CheckTags(ctx context.Context, c *config.Config, log *logs.Logger, st *ipnstate.Status, old key.NodePublic) error {
	renewed := !old.IsZero()
	for began := time.Now(); renewed && st.Self.PublicKey == old && time.Since(began) < c.Timeout(); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(Poll):
		}
		var err error
		if st, err = s.Local.StatusWithoutPeers(ctx); err != nil {
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
		return fault.New(fault.Auth, "%s let node %q in with %s, and not with %s", c.ControlName(), c.Hostname, listed(has), listed(lacks))
	}
	log.At("warning")("%s gives node %q %s, and not %s; let the tailnet's policy and the auth key give them", c.ControlName(), c.Hostname, listed(has), listed(lacks))
	return nil
}
