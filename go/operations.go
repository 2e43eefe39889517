package main

import (
	"context"
	"encoding"
	"os"
	"reflect"
	"strings"

	"tailscale.com/client/tailscale/apitype"
	"tailscale.com/ipn/ipnstate"

	"tailnet/internal/bridge"
	"tailnet/internal/fault"
	"tailnet/internal/node"
	"tailnet/internal/session"
	"tailnet/internal/strict"
)

/*
The operations of tailnet_ask: every question about a node. A new one is a method of node.Node
with documented arguments, and a line in this table; from there on it has its checks, its
cancelling and its place in docs/operations.md (tests/test_operations.py walks the table).
*/
var operations = table(
	replying("whois", "Say who has an address of the tailnet.", (*node.Node).WhoIs).of(apitype.WhoIsResponse{}),
	replying("status", "Tell the state of the node and of the peers it sees.", (*node.Node).Status).of(ipnstate.Status{}),
	replying("ping", "Ask a peer for an answer, once a second until it comes.", (*node.Node).Ping),
	lasting("capture", "Write the node's packets to a file, in pcap's format, until the session ends.", (*node.Node).Capture).
		along("a file to write to").
		through("root and the daemon's operator alone may do it, and one at a time on the whole machine."),
	streaming("watch", "Tell what changes; the first events are a snapshot of how things are.", (*node.Node).Watch).of(session.Events...),
)

// kind is what comes back on the descriptor.
type kind string

const (
	// reply: one line, {"ok": ...} or {"error": ...}.
	reply kind = "reply"

	// stream: one event a line; the last line is {"ok": null} or {"error": ...}.
	stream kind = "stream"

	// lasts: a reply's line, then a stream's. It lasts until it is ended: by the caller, who shuts
	// his direction down and reads the last line, or goes; or by itself.
	lasts kind = "session"
)

type operation struct {
	name    string
	about   string
	kind    kind
	args    reflect.Type
	answers []reflect.Type // of a reply one; of a stream one for each kind of event
	sidecar string         // what differs through a tailscaled; "" is nothing
	takes   string         // what the descriptor is that goes along; "" takes none

	begin func(n *node.Node, args string, file *os.File, end bridge.End)
}

func table(all ...operation) map[string]operation {
	named := map[string]operation{}
	for _, o := range all {
		named[o.name] = o
	}
	return named
}

// of names what an operation answers, where its method's result does not say it.
func (o operation) of(answers ...any) operation {
	o.answers = nil
	for _, a := range answers {
		o.answers = append(o.answers, reflect.TypeOf(a))
	}
	return o
}

// through says what differs through a tailscaled.
func (o operation) through(differs string) operation {
	o.sidecar = differs
	return o
}

// along says what the descriptor is that goes along; the struct of arguments is a receiver.
func (o operation) along(what string) operation {
	o.takes = what
	return o
}

func replying[Args, Answer any](name, about string, do func(*node.Node, context.Context, Args) (Answer, error)) operation {
	o := taking(name, about, reply, func(n *node.Node, a Args, end bridge.End) {
		end.Reply(func(ctx context.Context) (any, error) { return do(n, ctx, a) })
	})
	o.answers = []reflect.Type{reflect.TypeFor[Answer]()}
	return o
}

func streaming[Args any](name, about string, feed func(*node.Node, *bridge.Stream, Args) error) operation {
	return taking(name, about, stream, func(n *node.Node, a Args, end bridge.End) {
		end.Stream(func(s *bridge.Stream) error { return feed(n, s, a) })
	})
}

func lasting[Args, Answer any](name, about string, begin func(*node.Node, *bridge.Stream, Args) (Answer, func() error, error)) operation {
	o := taking(name, about, lasts, func(n *node.Node, a Args, end bridge.End) {
		end.Session(func(s *bridge.Stream) (any, func() error, error) { return begin(n, s, a) })
	})
	o.answers = []reflect.Type{reflect.TypeFor[Answer]()}
	return o
}

// A receiver is a struct of arguments that takes the descriptor which came along.
type receiver interface{ Receive(*os.File) }

func taking[Args any](name, about string, k kind, begin func(*node.Node, Args, bridge.End)) operation {
	return operation{name: name, about: about, kind: k, args: reflect.TypeFor[Args](),
		begin: func(n *node.Node, text string, file *os.File, end bridge.End) {
			var a Args
			if err := strict.Unmarshal([]byte(text), &a); err != nil {
				if file != nil {
					file.Close()
				}
				end.Refuse(err)
				return
			}
			if r, ok := any(&a).(receiver); ok {
				r.Receive(file)
			} else if file != nil {
				file.Close()
				end.Refuse(fault.New(fault.Argument, "%s takes no descriptor", name))
				return
			}
			begin(n, a, end)
		}}
}

// description is an operation as tailnet_operations tells it.
type description struct {
	About   string            `json:"about"`
	Kind    kind              `json:"kind"`
	Args    map[string]member `json:"args"`
	Answers []answerType      `json:"answers"`
	Sidecar string            `json:"sidecar"`
	Takes   string            `json:"takes"`
}

// answerType is a JSON object: ours with its members, or one of Tailscale's by its Go type.
type answerType struct {
	Type    string            `json:"type"`
	Members map[string]member `json:"members"`
}

type member struct {
	Type string `json:"type"`
	Doc  string `json:"doc"`
}

func describe() map[string]description {
	all := map[string]description{}
	for name, o := range operations {
		d := description{About: o.about, Kind: o.kind, Args: members(o.args), Sidecar: o.sidecar, Takes: o.takes}
		for _, t := range o.answers {
			if t.Kind() == reflect.Pointer {
				t = t.Elem()
			}
			a := answerType{Type: t.PkgPath() + "." + t.Name()}
			if strings.HasPrefix(t.PkgPath(), "tailnet/") {
				a = answerType{Type: t.Name(), Members: members(t)}
			}
			d.Answers = append(d.Answers, a)
		}
		all[name] = d
	}
	return all
}

func members(t reflect.Type) map[string]member {
	found := map[string]member{}
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			found[name] = member{jsonType(f.Type), f.Tag.Get("doc")}
		}
	}
	return found
}

func jsonType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return jsonType(t.Elem()) + " or null"
	case reflect.Slice:
		return "list of " + jsonType(t.Elem())
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int64, reflect.Uint16, reflect.Float64:
		return "number"
	case reflect.Struct:
		if !t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
			return "object"
		}
	}
	return "text"
}
