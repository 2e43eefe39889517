package testcontrol

import (
	"context"
	"encoding/json"

	"tailnet/internal/fault"
	"tailnet/internal/strict"
)

// An operation is something that a person, an admin or a broken network does to the tailnet.
type operation func(c *Control, with []byte) (any, error)

var operations = map[string]operation{
	"nodes": asks((*Control).report),

	"complete_login":       does((*Control).completeLogin),
	"approve":              does((*Control).approve),
	"set_require_login":    does((*Control).setRequireLogin),
	"set_require_approval": does((*Control).setRequireApproval),

	"expire_keys":        does((*Control).expireKeys),
	"extend_keys":        does((*Control).extendKeys),
	"add_one_time_key":   does((*Control).addOneTimeKey),
	"set_grantable_tags": does((*Control).setGrantableTags),

	"set_tags":       does((*Control).setTags),
	"remove_node":    does((*Control).removeNode),
	"add_fake_nodes": does((*Control).addFakeNodes),

	"set_app_caps": does((*Control).setAppCaps),
	"edit_policy":  does((*Control).editPolicy),

	"restart_relay": does((*Control).restartRelay),
	"fault":         does((*Control).setFault),
}

type args struct {
	Do   string          `json:"do"`
	With json.RawMessage `json:"with"` // the operation's own arguments
}

// Do runs the operation that a document names.
func (c *Control) Do(_ context.Context, document []byte) (any, error) {
	a := args{With: json.RawMessage("{}")}
	if err := strict.Unmarshal(document, &a); err != nil {
		return nil, err
	}
	if err := strict.Unmarshal(a.With, &map[string]any{}); err != nil {
		return nil, err
	}
	if o, ok := operations[a.Do]; ok {
		return o(c, a.With)
	}
	return nil, fault.New(fault.Config, "unknown operation %q", a.Do)
}

func asks[Args, Answer any](f func(*Control, Args) (Answer, error)) operation {
	return func(c *Control, with []byte) (any, error) {
		var a Args
		if err := strict.Unmarshal(with, &a); err != nil {
			return nil, err
		}
		return f(c, a)
	}
}

func does[Args any](f func(*Control, Args) error) operation {
	return asks(func(c *Control, a Args) (any, error) { return nil, f(c, a) })
}
