"""Mend what a Go dependency has wrong, while its own mending is on the way.

Rules of this file:

- A patch is a line or two that change in a file of a module. It is made at every build from the
  module that go.mod names: a tree of links to it with the patched files changed, and a go.work that
  replaces the module by this tree. (Go's -overlay refuses its module cache; go/packages, -modfile.)
- It goes as soon as go.mod has a version without the fault. A line that is no longer there ends
  the build and says so: nothing is patched silently, or no more.
- As build_go.py, which calls it: the standard library only, and Python 3.8's syntax.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Collection, Mapping, NamedTuple  # noqa: UP035 - see the rules


class Patch(NamedTuple):
    """Lines of a file of a module, and what they must be."""

    module: str
    file: str
    before: str
    after: str


PATCHES = [
    # Receive offload puts packets of several flows into one bucket, and Flush gives only the first
    # of each bucket to the netstack: removing an entry clears its link to the next. The others wait
    # in a pool for whoever takes the buffer next. That delays them; and where it is another node of
    # this process, they come to its netstack, which answers with a reset. Seen: one connection in a
    # hundred between two nodes of a process was cut, in silence for the receiver. The patch is what
    # https://github.com/google/gvisor/pull/14081 proposes. tests/test_endings.py has the case.
    Patch(
        "gvisor.dev/gvisor",
        "pkg/tcpip/stack/gro/gro.go",
        "for groPkt := gd.buckets[i].packets.Front(); groPkt != nil; groPkt = groPkt.Next() {\n",
        "for groPkt := gd.buckets[i].packets.Front(); groPkt != nil;"
        " groPkt = gd.buckets[i].packets.Front() {\n",
    ),
    # A FIN that is sent again puts the connection back to FIN_WAIT1. Where the peer's FIN had come
    # before (CLOSING), it then waits in FIN_WAIT2 for one that will not come again, and holds its
    # memory for a minute; where it had begun to end (LAST_ACK), likewise. Seen: of 4,500
    # connections that both ends closed at once, 5,020 of the 9,000 ends. Since
    # https://github.com/google/gvisor/pull/13401 gVisor does this once, where the FIN is queued.
    # The patch leaves the other states as they are: after a timeout, what is sent again may have
    # put one on too early (an ACK of data is then taken for one of the FIN), and this puts it back.
    Patch(
        "gvisor.dev/gvisor",
        "pkg/tcpip/transport/tcp/snd.go",
        "\t\tdefault:\n\t\t\ts.ep.setEndpointState(StateFinWait1)\n",
        "\t\tcase StateClosing, StateLastAck:\n"
        "\t\tdefault:\n\t\t\ts.ep.setEndpointState(StateFinWait1)\n",
    ),
    # A SYN for a connection in TIME_WAIT belongs to a new one: a peer takes one of 50,000 ports at
    # random, and a server that closes first has those of its last connections in TIME_WAIT. gVisor
    # looks for a listening endpoint to give it to. Tailscale has none, but a Forwarder, which is
    # not asked: the SYN is dropped, and comes again after a second; or the connection ends at that
    # very moment, and it is answered with a reset. Seen: of 20,000 dials, 8 at a time, 222 took
    # a second; and of some hundred thousands one was refused. With the patches such a SYN comes to
    # the Forwarder, as that of any other new connection does.
    Patch(
        "gvisor.dev/gvisor",
        "pkg/tcpip/stack/stack.go",
        "// Clock returns the Stack's clock for retrieving the current time and\n",
        "// HandleUnmatched gives a packet that no endpoint takes to its protocol's handler.\n"
        "func (s *Stack) HandleUnmatched(p tcpip.TransportProtocolNumber, id TransportEndpointID,"
        " pkt *PacketBuffer) bool {\n"
        "\tst := s.transportProtocols[p]\n"
        "\treturn st != nil && st.defaultHandler != nil && st.defaultHandler(id, pkt)\n}\n\n"
        "// Clock returns the Stack's clock for retrieving the current time and\n",
    ),
    Patch(
        "gvisor.dev/gvisor",
        "pkg/tcpip/transport/tcp/connect.go",
        "\tif ep == nil {\n\t\tif !s.flags.Contains(header.TCPFlagRst) {\n",
        "\tif ep == nil {\n"
        "\t\tif s.flags&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst) =="
        " header.TCPFlagSyn && e.stack.HandleUnmatched(ProtocolNumber, s.id, s.pkt) {\n"
        "\t\t\treturn\n\t\t}\n"
        "\t\tif !s.flags.Contains(header.TCPFlagRst) {\n",
    ),
    Patch(
        "gvisor.dev/gvisor",
        "pkg/tcpip/transport/tcp/connect.go",
        "\t\t\t\t\t\treturn false, reuseTW\n\t\t\t\t\t}\n\t\t\t\t}\n\t\t\t}\n",
        "\t\t\t\t\t\treturn false, reuseTW\n\t\t\t\t\t}\n\t\t\t\t}\n\t\t\t}\n"
        "\t\t\tif !s.flags.Contains(header.TCPFlagAck) {\n\t\t\t\treturn false, func() {\n"
        "\t\t\t\t\te.tryDeliverSegmentFromClosedEndpoint(s)\n\t\t\t\t\ts.DecRef()\n"
        "\t\t\t\t}\n\t\t\t}\n",
    ),
    # Who cannot reach the control server asks some of Tailscale's relays for its address: where its
    # name does not resolve, and also where nobody listens there. They know Tailscale's own names.
    # Of another control server they learn the name, and cannot answer; meanwhile ten seconds pass,
    # and the reason is lost. tests/test_hermetic.py has both cases.
    Patch(
        "tailscale.com",
        "net/dnscache/dnscache.go",
        '\t"strconv"\n',
        '\t"strconv"\n\t"strings"\n',
    ),
    Patch(
        "tailscale.com",
        "net/dnscache/dnscache.go",
        "\tif (err != nil || len(ips) == 0) && r.LookupIPFallback != nil {\n",
        "\tif (err != nil || len(ips) == 0) && r.LookupIPFallback != nil &&"
        ' strings.HasSuffix(host, ".tailscale.com") {\n',
    ),
    Patch(
        "tailscale.com",
        "net/dnscache/dnscache.go",
        "\tif d.dnsCache.LookupIPFallback == nil {\n",
        "\tif d.dnsCache.LookupIPFallback == nil ||"
        ' !strings.HasSuffix(dc.host, ".tailscale.com") {\n',
    ),
    # Of a control server that has plain HTTP only, a dial that fails is told to nobody, as if one
    # by HTTPS were under way: it ends after 5 seconds or more, and all who want a connection wait
    # for it. Seen: after a Ctrl-C in one of 17 joins, the logout of an ephemeral node waited so.
    Patch(
        "tailscale.com",
        "control/controlhttp/client.go",
        "\t\t\tif err80 != nil && err443 != nil {\n",
        "\t\t\tif err80 != nil && (err443 != nil || u443 == nil) {\n",
    ),
    # The goroutine that empties the netstack's queue of outgoing packets (512) delivers those that
    # are for the node itself. One that no connection takes is answered with a reset, by the same
    # goroutine, into the same queue: if that is full, it waits for itself, and nothing leaves the
    # node ever after. Seen: of 600 connections of a node to itself, full, that were closed at once,
    # no end came to its end, and the next dial timed out. With the patch another goroutine delivers
    # them, and what 4,096 packets do not hold is dropped, as by any network. tests/test_leaks.py
    # has the case.
    Patch(
        "tailscale.com",
        "wgengine/netstack/netstack.go",
        "\tinboundBuffs, inboundBuffsSizes := ns.getInjectInboundBuffsSizes()\n\tfor {\n"
        "\t\tpkt := ns.linkEP.ReadContext(ns.ctx)\n",
        "\tinboundBuffs, inboundBuffsSizes := ns.getInjectInboundBuffsSizes()\n"
        "\tloopback := make(chan *stack.PacketBuffer, 4096)\n"
        "\tdefer close(loopback)\n"
        "\tgo func() {\n\t\tfor pkt := range loopback {\n"
        "\t\t\tns.linkEP.DeliverLoopback(pkt)\n\t\t}\n\t}()\n\tfor {\n"
        "\t\tpkt := ns.linkEP.ReadContext(ns.ctx)\n",
    ),
    Patch(
        "tailscale.com",
        "wgengine/netstack/netstack.go",
        "\t\t\t\tns.linkEP.DeliverLoopback(pkt)\n\t\t\t\tcontinue\n",
        "\t\t\t\tselect {\n\t\t\t\tcase loopback <- pkt:\n"
        "\t\t\t\tdefault:\n\t\t\t\t\tpkt.DecRef()\n\t\t\t\t}\n\t\t\t\tcontinue\n",
    ),
    # A netstack has up to 8,192 half-open connections, and one source address gets two thirds of
    # them. A node has two addresses, and a subnet router has many, so one peer that ignored the
    # SYN-ACKs took all of the room. Seen: after 8,400 such SYNs all other dials timed out for
    # two minutes. The patches count by node, and give a node no more than is free: one peer gets
    # half of the room, two get a third each, and a newcomer always finds some. A SYN beyond that is
    # dropped, and TCP sends it again. 2,048 bounds the memory (24 KiB for each, measured), and is
    # enough because a handshake ends much earlier now (see the next patch). A SYN that was
    # dropped also stayed in packetsInFlight for good, here and where the Forwarder drops one (it
    # returns true), so that its port was never answered again. tests/test_flood.py has the cases.
    Patch(
        "tailscale.com",
        "wgengine/netstack/netstack.go",
        "\t\treturn 8192\n",
        "\t\treturn 2048\n",
    ),
    Patch(
        "tailscale.com",
        "wgengine/netstack/netstack.go",
        "\tpacketsInFlight map[stack.TransportEndpointID]struct{}\n",
        "\tpacketsInFlight map[stack.TransportEndpointID]netip.Addr // what clientOf returned\n",
    ),
    Patch(
        "tailscale.com",
        "wgengine/netstack/netstack.go",
        "make(map[stack.TransportEndpointID]struct{}),\n",
        "make(map[stack.TransportEndpointID]netip.Addr),\n",
    ),
    Patch(
        "tailscale.com",
        "wgengine/netstack/netstack.go",
        "\t\tns.mu.Lock()\n\t\tif _, ok := ns.packetsInFlight[tei]; ok {\n",
        "\t\tclient := ns.clientOf(remoteIP.Unmap())\n"
        "\t\tns.mu.Lock()\n\t\tif _, ok := ns.packetsInFlight[tei]; ok {\n",
    ),
    Patch(
        "tailscale.com",
        "wgengine/netstack/netstack.go",
        "\t\tinFlight := ns.connsInFlightByClient[remoteIP]\n"
        "\t\ttooManyInFlight := inFlight >= maxInFlightConnectionAttemptsPerClient()\n"
        "\t\tif !tooManyInFlight {\n"
        "\t\t\tns.connsInFlightByClient[remoteIP]++\n\t\t}\n\n"
        "\t\t// We're handling this packet now; see the comment on the\n"
        "\t\t// packetsInFlight field for more details.\n"
        "\t\tns.packetsInFlight[tei] = struct{}{}\n",
        "\t\tinFlight := ns.connsInFlightByClient[client]\n"
        "\t\ttooManyInFlight := inFlight >="
        " maxInFlightConnectionAttempts()-len(ns.packetsInFlight)\n"
        "\t\tif !tooManyInFlight {\n"
        "\t\t\tns.connsInFlightByClient[client]++\n"
        "\t\t\tns.packetsInFlight[tei] = client\n\t\t}\n",
    ),
    Patch(
        "tailscale.com",
        "wgengine/netstack/netstack.go",
        '\t\t\tns.logf("netstack: ignoring a new TCP connection from %v to %v because the client'
        ' already has %d in-flight connections", localIP, remoteIP, inFlight)\n'
        "\t\t\tmetricPerClientForwardLimit.Add(1)\n"
        "\t\t\tns.forwardInFlightPerClientDropped.Add(1)\n"
        "\t\t\treturn false // unhandled\n",
        "\t\t\tmetricPerClientForwardLimit.Add(1)\n"
        "\t\t\tns.forwardInFlightPerClientDropped.Add(1)\n"
        "\t\t\treturn true // dropped\n",
    ),
    Patch(
        "tailscale.com",
        "wgengine/netstack/netstack.go",
        "\t\t\t\tns.mu.Lock()\n"
        "\t\t\t\tdelete(ns.packetsInFlight, tei)\n"
        "\t\t\t\tns.connsInFlightByClient[remoteIP]--\n"
        "\t\t\t\tnew := ns.connsInFlightByClient[remoteIP]\n"
        "\t\t\t\tns.mu.Unlock()\n"
        '\t\t\t\tns.logf("netstack: decrementing connsInFlightByClient[%v] because the packet was'
        ' not handled; new value is %d", remoteIP, new)\n',
        "\t\t\t\tns.decrementInFlightTCPForward(tei, client)\n",
    ),
    Patch(
        "tailscale.com",
        "wgengine/netstack/netstack.go",
        "func (ns *Impl) decrementInFlightTCPForward(",
        "// clientOf returns the first address of the node that sends from ip.\n"
        "func (ns *Impl) clientOf(ip netip.Addr) netip.Addr {\n"
        "\tif ns.lb != nil {\n"
        "\t\tif p, ok := ns.lb.PeerForIP(ip); ok && p.Node.Addresses().Len() > 0 {\n"
        "\t\t\treturn p.Node.Addresses().At(0).Addr()\n\t\t}\n\t}\n\treturn ip\n}\n\n"
        "func (ns *Impl) decrementInFlightTCPForward(",
    ),
    Patch(
        "tailscale.com",
        "wgengine/netstack/netstack.go",
        "\tdelete(ns.packetsInFlight, tei)\n\n\twas := ",
        "\tremoteAddr = ns.packetsInFlight[tei]\n\tdelete(ns.packetsInFlight, tei)\n\n\twas := ",
    ),
    # A passive handshake ends when its back-off passes MaxRTO: after 6 SYN-ACKs and 127 s.
    # TCPSynRetriesOption bounds active ones only. With the patch it sends SYN-ACKs after 0, 1 and
    # 3 s and ends after 7 s, so that even a path with a round trip of 4 s connects by the last one.
    # A client whose answers are all lost sends its SYN again, which begins a new handshake.
    Patch(
        "gvisor.dev/gvisor",
        "pkg/tcpip/transport/tcp/connect.go",
        "\th.resetToSynRcvd(isn, irs, opts, deferAccept)\n\treturn h\n",
        "\th.resetToSynRcvd(isn, irs, opts, deferAccept)\n"
        "\th.retransmitTimer.maxTimeout = 4 * time.Second\n\treturn h\n",
    ),
    # TCP_USER_TIMEOUT ends a connection whose peer keeps its window closed, as on Linux, also where
    # the peer answers every probe. That is right where a program has set it; as a default it reset
    # peers that read nothing for two minutes, against RFC 9293, 3.8.6.1 (MUST-37). With the patches
    # we say which of them it is, and four probes without an answer end the exception. gVisor counts
    # lost probes over the whole connection, and resets it after 15; with the last patch an answer
    # begins the count anew. tests/test_keepalive.py has the case.
    Patch(
        "gvisor.dev/gvisor",
        "pkg/tcpip/transport/tcp/endpoint.go",
        "\tuserTimeout time.Duration\n",
        "\tuserTimeout time.Duration\n\n"
        "\t// SpareClosedWindow has userTimeout spare a peer that keeps its window closed and\n"
        "\t// answers probes. LockUser guards it.\n"
        "\tSpareClosedWindow bool\n",
    ),
    Patch(
        "gvisor.dev/gvisor",
        "pkg/tcpip/transport/tcp/snd.go",
        "\tif uto != 0 {\n",
        "\tspare := s.ep.SpareClosedWindow && s.zeroWindowProbing && s.unackZeroWindowProbes < 4\n"
        "\tif uto != 0 && !spare {\n",
    ),
    Patch(
        "gvisor.dev/gvisor",
        "pkg/tcpip/transport/tcp/snd.go",
        "\t\ts.unackZeroWindowProbes--\n",
        "\t\ts.unackZeroWindowProbes = 0\n",
    ),
    # Who links Taildrop in receives files: those of the same user's other nodes, without a word, up
    # to the last byte of the disk. With the first patch a program can say of each node whether it
    # has a directory for them (go/internal/node/taildrop.go); with the second, a node that has none
    # refuses (403), where Tailscale has an internal error. tests/test_taildrop.py has the case.
    Patch(
        "tailscale.com",
        "feature/taildrop/ext.go",
        "// fileRoot returns where to store Taildrop files for the given user and whether\n",
        "// Receives, where a program sets it, says which nodes receive files.\n"
        "var Receives func(ipnext.SafeBackend) bool\n\n"
        "// fileRoot returns where to store Taildrop files for the given user and whether\n",
    ),
    Patch(
        "tailscale.com",
        "feature/taildrop/ext.go",
        '\tif v := e.directFileRoot; v != "" {\n',
        '\tif Receives != nil && !Receives(e.sb) {\n\t\treturn "", false\n\t}\n'
        '\tif v := e.directFileRoot; v != "" {\n',
    ),
    Patch(
        "tailscale.com",
        "feature/taildrop/peerapi.go",
        '\t\thttp.Error(w, "failed to get taildrop manager", http.StatusInternalServerError)\n',
        "\t\thttp.Error(w, ErrNoTaildrop.Error(), http.StatusForbidden)\n",
    ),
    # tsnet asks for the program's path, and does not start where /proc/self/exe is missing: in a
    # chroot, in a container without /proc. It takes from it a hostname and a state directory, which
    # this library always gives. The patch lets Linux do without, as other systems already may.
    # tests/test_no_proc.py has the case.
    Patch(
        "tailscale.com",
        "tsnet/tsnet.go",
        '\t\tcase "js", "wasip1":\n',
        '\t\tcase "js", "wasip1", "linux":\n',
    ),
    # A control server may order its clients to exit (MapResponse.Debug.Exit), and the client does,
    # with the program that it is a part of: no `finally`, no atexit, no word. The patch makes it an
    # error of the map poll, which go/internal/node/exit.go hears of. tests/test_telling.py has the
    # case.
    Patch("tailscale.com", "control/controlclient/direct.go", '\t"os"\n', ""),
    Patch(
        "tailscale.com",
        "control/controlclient/direct.go",
        "\t\tos.Exit(*code)\n",
        '\t\treturn vizerror.Errorf("exit was ordered, with status %d", *code)\n',
    ),
    # SSLKEYLOGFILE, which browsers and curl read too, ends the process where it names a file that
    # cannot be written. With the patch that is a line of the log. tests/test_processes.py has it.
    Patch(
        "tailscale.com",
        "net/tlsdial/tlsdial.go",
        "\t\t\tif err != nil {\n\t\t\t\tlog.Fatal(err)\n\t\t\t}\n"
        '\t\t\tlog.Printf("WARNING: writing to SSLKEYLOGFILE %v", n)\n'
        "\t\t\tconf.KeyLogWriter = f\n",
        '\t\t\tif err != nil {\n\t\t\t\tlog.Printf("SSLKEYLOGFILE: %v", err)\n\t\t\t} else {\n'
        '\t\t\t\tlog.Printf("WARNING: writing to SSLKEYLOGFILE %v", n)\n'
        "\t\t\t\tconf.KeyLogWriter = f\n\t\t\t}\n",
    ),
    # tsnet makes an auth key of an OAuth client secret at every start, needed or not, and with no
    # limit in time; the hook it uses is in an internal package. The patch lets us ask when the node
    # turns out to need one (go/internal/node/oauth.go). tests/test_client_secret.py has the cases.
    Patch(
        "tailscale.com",
        "feature/oauthkey/oauthkey.go",
        "\ttailscale.HookResolveAuthKey.Set(resolveAuthKey)\n}\n",
        "\ttailscale.HookResolveAuthKey.Set(resolveAuthKey)\n}\n\n"
        "// Resolve makes an auth key for nodes with these tags.\n"
        "func Resolve(ctx context.Context, secret string, tags []string) (string, error) {\n"
        "\treturn resolveAuthKey(ctx,"
        " tailscale.ResolveAuthKeyArgs{AuthKey: secret, Tags: tags})\n}\n",
    ),
    # A new node key is in memory alone until the first network map comes. A program that gives up
    # before that, or dies, comes back with another one: the server has a second machine, and an
    # auth key for one use is used up. The patch lets go/internal/node/identity.go keep the key
    # before it is sent; tests/test_giving_up.py has the cases. Admitted is for expiry.go, which
    # looks whether a key that has expired is extended: TryLogin would go on with a new one.
    Patch(
        "tailscale.com",
        "control/controlclient/direct.go",
        "type loginOpt struct {\n",
        "// NewNodeKey makes the node key that a machine registers with.\n"
        "var NewNodeKey = func(key.MachinePublic) key.NodePrivate { return key.NewNode() }\n\n"
        "// Admitted reports whether the server lets the node in with the node key that it has.\n"
        "func (c *Direct) Admitted(ctx context.Context) (bool, error) {\n"
        "\texpired, url, _, err := c.doLogin(ctx, loginOpt{})\n"
        '\treturn err == nil && !expired && url == "", err\n}\n\n'
        "type loginOpt struct {\n",
    ),
    Patch(
        "tailscale.com",
        "control/controlclient/direct.go",
        "\t\ttryingNewKey = key.NewNode()\n",
        "\t\ttryingNewKey = NewNodeKey(machinePrivKey.Public())\n",
    ),
    # testcontrol, which the offline tailnet is made of, knows one reusable key, and wants it from
    # nodes that it knows as well. Tailscale's control server and headscale ask a node for a key
    # only where they do not know its node key, or where that has expired; and they have keys for
    # one use. The patch lets the offline tailnet decide (go/internal/testcontrol/keys.go).
    # Headscale refuses a registration by HTTP 400, 401 or 403; testcontrol can only limit the rate.
    Patch(
        "tailscale.com",
        "tstest/integration/testcontrol/testcontrol.go",
        "\tMaybeRateLimitRegister func() (reject bool, retryAfter string, msg string)\n",
        "\tMaybeRateLimitRegister func() (status int, retryAfter string, msg string)\n",
    ),
    Patch(
        "tailscale.com",
        "tstest/integration/testcontrol/testcontrol.go",
        "\t\tif reject, retryAfter, msg := fn(); reject {\n",
        "\t\tif status, retryAfter, msg := fn(); status != 0 {\n",
    ),
    Patch(
        "tailscale.com",
        "tstest/integration/testcontrol/testcontrol.go",
        "\t\t\thttp.Error(w, msg, http.StatusTooManyRequests)\n",
        "\t\t\thttp.Error(w, msg, status)\n",
    ),
    Patch(
        "tailscale.com",
        "tstest/integration/testcontrol/testcontrol.go",
        "\t// MaybeRateLimitRegister, if non-nil, ",
        "\t// CheckRegister decides on each registration, in the place of RequireAuthKey; it\n"
        "\t// returns why the registration is refused, or an empty string.\n"
        "\tCheckRegister func(key.MachinePublic, *tailcfg.RegisterRequest) string\n\n"
        "\t// MaybeRateLimitRegister, if non-nil, ",
    ),
    Patch(
        "tailscale.com",
        "tstest/integration/testcontrol/testcontrol.go",
        '\tif s.RequireAuthKey != "" && (req.Auth == nil ||'
        " req.Auth.AuthKey != s.RequireAuthKey) {\n"
        "\t\tres := must.Get(s.encode(false, tailcfg.RegisterResponse{\n"
        '\t\t\tError: "invalid authkey",\n',
        '\tif refusal := s.CheckRegister(mkey, &req); refusal != "" {\n'
        "\t\tres := must.Get(s.encode(false, tailcfg.RegisterResponse{\n"
        "\t\t\tError: refusal,\n",
    ),
    # testcontrol also tells each change at once. Control servers may tell late (headscale gathers
    # 0.8 s of changes by default), and what nodes do meanwhile is to be tested.
    Patch(
        "tailscale.com",
        "tstest/integration/testcontrol/testcontrol.go",
        "\t// AltMapStream, if non-nil, takes over serveMap. See [AltMapStreamFunc].\n",
        "\t// HoldMapResponse, if non-nil, is called before each MapResponse but the first of a\n"
        "\t// stream is sent; it is made already.\n"
        "\tHoldMapResponse func(context.Context)\n\n"
        "\t// AltMapStream, if non-nil, takes over serveMap. See [AltMapStreamFunc].\n",
    ),
    Patch(
        "tailscale.com",
        "tstest/integration/testcontrol/testcontrol.go",
        "\t\t\tif f := s.ModifyFirstMapResponse; first && f != nil {\n\t\t\t\tfirst = false\n",
        "\t\t\tif f := s.HoldMapResponse; !first && f != nil {\n\t\t\t\tf(ctx)\n\t\t\t}\n"
        "\t\t\tisFirst := first\n\t\t\tfirst = false\n"
        "\t\t\tif f := s.ModifyFirstMapResponse; isFirst && f != nil {\n",
    ),
    # A megabyte of what a peer sends waits in the receive buffer of a new connection, before the
    # program has read any: 300 connections that nobody reads took 1.1 GiB. It grows as the program
    # reads (internal/bridge, room.go).
    Patch(
        "tailscale.com",
        "wgengine/netstack/netstack_tcpbuf_default.go",
        "\ttcpRXBufDefSize = tcp.DefaultSendBufferSize\n",
        "\ttcpRXBufDefSize = 32 << 10\n",
    ),
    # The LocalAPI says that a capture has begun before it has: a program that sends at once misses
    # its own packets (tests/test_conformance.py). The file's header is flushed with the answer.
    Patch(
        "tailscale.com",
        "feature/capture/capture.go",
        "\tw.WriteHeader(http.StatusOK)\n\tw.(http.Flusher).Flush()\n\n"
        "\tb := h.LocalBackend()\n"
        "\ts := b.GetOrSetCaptureSink(newSink)\n\n"
        "\tunregister := s.RegisterOutput(w)\n",
        "\tb := h.LocalBackend()\n"
        "\ts := b.GetOrSetCaptureSink(newSink)\n\n"
        "\tunregister := s.RegisterOutput(w)\n"
        "\tw.(http.Flusher).Flush()\n",
    ),
    # wireguard-go sends a handshake's initiation again after 5 s, and what is to be sent waits for
    # it. A node that has just joined, or has started again, is often dialed or dials before its
    # peer has heard of that from the control server; the peer cannot read the initiation then, or
    # answers to where the node was. Seen: with peers told 0.3 or 0.8 s late, every first dial took
    # 5.1 to 5.3 s. With the patch it is sent again after 250 ms, then after half of the time since
    # the first; from 10 s on every 5 s as before, so that a peer that is away costs 8 initiations
    # more in 90 s. tests/test_path.py has the case.
    Patch(
        "github.com/tailscale/wireguard-go",
        "device/noise-protocol.go",
        "\tlastSentHandshake         time.Time\n",
        "\tlastSentHandshake         time.Time\n"
        "\tunansweredSince           time.Time // the first initiation without a handshake since\n",
    ),
    Patch(
        "github.com/tailscale/wireguard-go",
        "device/send.go",
        "\tpeer.handshake.mutex.RLock()\n"
        "\tif time.Since(peer.handshake.lastSentHandshake) < RekeyTimeout {\n",
        "\tpeer.handshake.mutex.RLock()\n"
        "\tif time.Since(peer.handshake.lastSentHandshake) < peer.handshake.retryAfter() {\n",
    ),
    Patch(
        "github.com/tailscale/wireguard-go",
        "device/send.go",
        "\tpeer.handshake.mutex.Lock()\n"
        "\tif time.Since(peer.handshake.lastSentHandshake) < RekeyTimeout {\n"
        "\t\tpeer.handshake.mutex.Unlock()\n\t\treturn nil\n\t}\n"
        "\tpeer.handshake.lastSentHandshake = time.Now()\n",
        "\tpeer.handshake.mutex.Lock()\n"
        "\tif time.Since(peer.handshake.lastSentHandshake) < peer.handshake.retryAfter() {\n"
        "\t\tpeer.handshake.mutex.Unlock()\n\t\treturn nil\n\t}\n"
        "\tpeer.handshake.lastSentHandshake = time.Now()\n"
        "\tif peer.handshake.unansweredSince.IsZero() {\n"
        "\t\tpeer.handshake.unansweredSince = peer.handshake.lastSentHandshake\n\t}\n",
    ),
    Patch(
        "github.com/tailscale/wireguard-go",
        "device/timers.go",
        "\t\tpeer.timers.retransmitHandshake.Mod(RekeyTimeout + time.Millisecond*"
        "time.Duration(fastrandn(RekeyTimeoutJitterMaxMs)))\n",
        "\t\tpeer.handshake.mutex.RLock()\n\t\tafter := peer.handshake.retryAfter()\n"
        "\t\tpeer.handshake.mutex.RUnlock()\n"
        "\t\tjitter := min(uint32(after.Milliseconds()/4), RekeyTimeoutJitterMaxMs)\n"
        "\t\tpeer.timers.retransmitHandshake.Mod(after + time.Millisecond*"
        "time.Duration(fastrandn(jitter)))\n",
    ),
    Patch(
        "github.com/tailscale/wireguard-go",
        "device/timers.go",
        '"%s - Handshake did not complete after %d seconds, retrying (try %d)", peer,'
        " int(RekeyTimeout.Seconds()), peer",
        '"%s - Handshake did not complete, retrying (try %d)", peer, peer',
    ),
    Patch(
        "github.com/tailscale/wireguard-go",
        "device/timers.go",
        "\t\tpeer.noteSessionHandshakeStopped()\n",
        "\t\tpeer.handshake.answered()\n\t\tpeer.noteSessionHandshakeStopped()\n",
    ),
    Patch(
        "github.com/tailscale/wireguard-go",
        "device/timers.go",
        "\tpeer.timers.sentLastMinuteHandshake.Store(false)\n"
        "\tpeer.lastHandshakeNano.Store(time.Now().UnixNano())\n}\n",
        "\tpeer.timers.sentLastMinuteHandshake.Store(false)\n"
        "\tpeer.handshake.answered()\n"
        "\tpeer.lastHandshakeNano.Store(time.Now().UnixNano())\n}\n\n"
        "// retryAfter is how long after the last initiation the next may be sent. The caller holds"
        " h.mutex.\n"
        "func (h *Handshake) retryAfter() time.Duration {\n"
        "\tif h.unansweredSince.IsZero() {\n\t\treturn RekeyTimeout\n\t}\n"
        "\treturn min(max(250*time.Millisecond, h.lastSentHandshake.Sub(h.unansweredSince)/2),"
        " RekeyTimeout)\n}\n\n"
        "// answered is called when a handshake is complete, or given up.\n"
        "func (h *Handshake) answered() {\n\th.mutex.Lock()\n\tdefer h.mutex.Unlock()\n"
        "\th.unansweredSince = time.Time{}\n}\n",
    ),
    Patch(
        "github.com/tailscale/wireguard-go",
        "device/constants.go",
        "\tMaxTimerHandshakes      = 90 / 5 /* RekeyAttemptTime / RekeyTimeout */\n",
        "\tMaxTimerHandshakes      = 90/5 + 8 /* in RekeyAttemptTime */\n",
    ),
    # A peer that has started again has another disco key and mostly another port. magicsock takes
    # in the key, but goes on sending to where the peer was, and there alone, for the rest of the
    # 6.5 s that it trusts the path. Seen: the first dial to a node that had started again took 7.8
    # to 8.5 s. The patch does what the debug log says is done. tests/test_path.py has the case.
    Patch(
        "tailscale.com",
        "wgengine/magicsock/endpoint.go",
        '\t\t\tWhat: "updateFromNode-resetLocked",\n\t\t})\n',
        '\t\t\tWhat: "updateFromNode-resetLocked",\n\t\t})\n\t\tde.resetLocked()\n',
    ),
    # The control server answers HTTP 404 to a node that an admin has removed. controlclient logs
    # that, tries again for ever and reports nothing
    # (https://github.com/tailscale/tailscale/issues/18700). The patch makes it a health warning, as
    # https://github.com/tailscale/tailscale/pull/19606 proposes.
    # tests/test_removed.py has the case.
    Patch(
        "tailscale.com",
        "control/controlclient/direct.go",
        '\t\treturn fmt.Errorf("initial fetch failed %d: %.200s",\n',
        "\t\tif res.StatusCode == http.StatusNotFound {\n"
        "\t\t\tc.health.SetUnhealthy(nodeNotFound, nil)\n\t\t}\n"
        '\t\treturn fmt.Errorf("initial fetch failed %d: %.200s",\n',
    ),
    Patch(
        "tailscale.com",
        "control/controlclient/direct.go",
        "\tc.health.NoteMapRequestHeard(request)\n",
        "\tc.health.NoteMapRequestHeard(request)\n\tc.health.SetHealthy(nodeNotFound)\n",
    ),
    Patch(
        "tailscale.com",
        "control/controlclient/direct.go",
        "var macOSScreenTime = ",
        "var nodeNotFound = health.Register(&health.Warnable{\n"
        '\tCode:     "node-not-found",\n\tTitle:    "Removed from the tailnet",\n'
        "\tSeverity: health.SeverityHigh,\n"
        '\tText: health.StaticMessage("The control server does not know this node any more:'
        ' an admin has removed it."),\n'
        "\tImpactsConnectivity: true,\n})\n\n"
        "var macOSScreenTime = ",
    ),
    # testcontrol forgets no node, and answers one that it does not know HTTP 400 where Tailscale's
    # control server and headscale answer 404.
    Patch(
        "tailscale.com",
        "tstest/integration/testcontrol/testcontrol.go",
        '\t\thttp.Error(w, "node not found", 400)\n',
        '\t\thttp.Error(w, "node not found", 404)\n',
    ),
    Patch(
        "tailscale.com",
        "tstest/integration/testcontrol/testcontrol.go",
        "\t\tnodeID := len(s.nodes) + 1\n",
        "\t\tnodeID := len(s.nodes) + s.removed + 1\n",
    ),
    Patch(
        "tailscale.com",
        "tstest/integration/testcontrol/testcontrol.go",
        "\tallExpired    bool                     // All nodes will be",
        "\tremoved       int                      // Nodes that RemoveNode has removed.\n"
        "\tallExpired    bool                     // All nodes will be",
    ),
    Patch(
        "tailscale.com",
        "tstest/integration/testcontrol/testcontrol.go",
        "// UpdateNode updates or adds the input node, then triggers a netmap update for\n",
        "// RemoveNode forgets a node, ends its stream and tells the others, which are connected.\n"
        "func (s *Server) RemoveNode(k key.NodePublic, others []key.NodePublic) {\n"
        "\ts.mu.Lock()\n\tdefer s.mu.Unlock()\n"
        "\tn := s.nodes[k]\n\tif n == nil {\n\t\treturn\n\t}\n"
        "\ts.removed++\n"
        "\tdelete(s.nodes, k)\n\tdelete(s.users, k)\n\tdelete(s.logins, k)\n"
        "\tif c := s.updates[n.ID]; c != nil {\n\t\tclose(c)\n\t\tdelete(s.updates, n.ID)\n\t}\n"
        "\tfor _, other := range others {\n"
        "\t\tmak.Set(&s.msgToSend, other, append(s.msgToSend[other],"
        " &tailcfg.MapResponse{PeersRemoved: []tailcfg.NodeID{n.ID}}))\n\t}\n"
        '\ts.updateLocked("RemoveNode", s.nodeIDsLocked(n.ID))\n}\n\n'
        "// UpdateNode updates or adds the input node, then triggers a netmap update for\n",
    ),
]


def workspace(go: str, directory: Path, env: Mapping[str, str], into: Path) -> Path:
    """Make the patched trees and the go.work that names them; return its path, for $GOWORK.

    Args:
        go: the go command.
        directory: where go.mod is.
        env: the environment for `go`, which may have to download the modules.
        into: where all goes; what is right already stays untouched.

    Raises:
        LookupError: the line is not there (once), or the module cannot be had; the text says why.
    """
    text = (directory / "go.mod").read_text("utf-8")
    version = next(line for line in text.splitlines() if line.startswith("go "))
    work = f"{version}\nuse {json.dumps(str(directory))}\n"
    for module in dict.fromkeys(patch.module for patch in PATCHES):
        original, release = _download(go, directory, env, module)
        tree = into / original.name
        texts: dict[str, str] = {}
        for patch in PATCHES:
            if patch.module == module:
                text = texts.get(patch.file) or (original / patch.file).read_text("utf-8")
                if text.count(patch.before) != 1:
                    raise LookupError(
                        f"{module} {release}: {patch.file} is not what build_patches.py mends; see"
                        " whether it is mended there, and drop or renew the patch"
                    )
                texts[patch.file] = text.replace(patch.before, patch.after)
        link_tree(original, tree, [Path(file) for file in texts])
        for file, text in texts.items():
            write(tree / file, text)
        work += f"replace {module} => ./{original.name}\n"  # relative: it is recorded
    write(into / "go.work", work)
    return into / "go.work"


def _download(go: str, directory: Path, env: Mapping[str, str], module: str) -> tuple[Path, str]:
    """Have Go download what go.mod names; return where it is, and its version."""
    done = subprocess.run(
        [go, "mod", "download", "-json", module],
        cwd=directory,
        env=dict(env),
        stdout=subprocess.PIPE,
        check=False,
    )
    answer = json.loads(done.stdout or b"{}")
    if "Dir" not in answer:
        raise LookupError(f"{module}: {answer.get('Error', 'it cannot be downloaded')}")
    return Path(answer["Dir"]), answer["Version"]


def link_tree(original: Path, tree: Path, but: Collection[Path]) -> None:
    """Make `tree` a copy of `original` by links, but with real directories on the way to files.

    Files beside these are copied, for Go embeds no link. The files themselves are left out.
    """
    tree.mkdir(parents=True, exist_ok=True)
    for entry in original.iterdir():
        link = tree / entry.name
        inside = [path.relative_to(entry.name) for path in but if path.parts[0] == entry.name]
        if inside and entry.is_dir():
            if link.is_symlink():  # of before there was a patch in it: what it leads to is not ours
                link.unlink()
            link_tree(entry, link, inside)
        elif not inside and not is_copy(link, entry):
            half = tree / f"{entry.name}.{os.getpid()}"
            if entry.is_dir():
                if link.is_dir() and not link.is_symlink():  # there was a patch in it
                    shutil.rmtree(link)
                half.symlink_to(entry)
            else:
                shutil.copyfile(entry, half)
            half.replace(link)


def is_copy(path: Path, original: Path) -> bool:
    """Report whether `path` is what link_tree makes of `original`."""
    if original.is_dir():
        return path.exists() and path.samefile(original)
    return path.is_file() and not path.is_symlink() and filecmp.cmp(path, original)


def write(path: Path, text: str) -> None:
    """Write a file whole, for builds beside this one; not at all where it is the same."""
    if path.exists() and path.read_text("utf-8") == text:
        return
    half = path.with_name(f"{path.name}.{os.getpid()}")
    half.write_text(text, "utf-8")
    half.replace(path)
