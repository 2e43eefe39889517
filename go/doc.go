/*
Command tailnet is the C shared library under the Python package: Tailscale's tsnet
behind the contract in tailnet.h.

# The life of one connection

A peer dials this node. tsnet asks [embedded] whether it wants the connection before the
handshake (internal/embedded/listen.go); a listener with a full backlog makes it a refusal.
After the handshake the netstack's connection becomes a bridge.Far (far.go), and an
Acceptor (internal/bridge/handover.go) connects a unix socket, named after the peer, to
the listening socket that Python made. Python's accept(2) returns its other end. From
then on a Conn (conn.go) pumps bytes, called by the netstack on one side (far.go) and
waiting on the runtime's poller (near.go) on the other, until both directions have ended
and the peer has everything.

A dial goes the other way: direct.c makes a socket pair, of which Python has one end from
the start, and leaves a note; direct.go reads it. dial.go resolves the name on the
tailnet, checks that the address is there, and dials it; the answer is the first line
that Python reads, and the connection's bytes follow (handover.go).

Through a tailscaled, its serve configuration forwards the peer's connection to a port of
ours (internal/sidecar/serve.go), with a header that names the peer; internal/proxied reads
the header and makes sure that the daemon sent it. A dial goes out through its LocalAPI
(internal/sidecar/dial.go). Where the daemon has a TUN, both are sockets of the kernel
(internal/sidecar/listen.go).

# The life of one question

A program asks who is calling. direct.c leaves a note in a pipe, with the operation's name
and its arguments; direct.go reads it and finds the operation in the table of operations.go,
which decodes the arguments and calls a method of node.Node (internal/node/operations.go);
internal/session has the answer. It goes back on a socket whose other end Python has held since before the note.

# Reading order

tailnet.h, exports.go, direct.c, direct.go, operations.go, internal/bridge (handles, reply, near,
handover, conn, shared), internal/node, internal/config, internal/state, internal/session,
internal/embedded, internal/sidecar, internal/proxied, internal/testcontrol; each package says in
which order its files are read. A package imports only those that come after it here:

	main → node → embedded, sidecar → session → state → config → logs, strict → bridge, proxied → fault
*/
package main
