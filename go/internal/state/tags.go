package state

import (
	"encoding/json"
	"os"
	"path/filepath"

	"tailscale.com/atomicfile"

	"tailnet/internal/config"
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

// JoinedTags returns the tags that the node last joined with; preferred are those of its
// preferences, for a state of tsnet's, or of a version before this.
func JoinedTags(c *config.Config, preferred []string) (tags []string) {
	if c.StateDir == "" {
		return c.Tags
	}
	if text, err := os.ReadFile(filepath.Join(c.StateDir, tagsFile)); err == nil && json.Unmarshal(text, &tags) == nil {
		return tags
	}
	return preferred
}

// KeepTags is told that the node has joined with the tags that it asks for.
func KeepTags(c *config.Config) {
	if c.StateDir == "" {
		return
	}
	if text, err := json.Marshal(c.Tags); err == nil {
		atomicfile.WriteFile(filepath.Join(c.StateDir, tagsFile), text, 0o600)
	}
}
