package session

import (
	"cmp"
	"context"
	"time"

	"tailscale.com/ipn"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/logs"
)

/*
AwaitRunning waits until a node has joined, or until something says that it will not. Both backends
start the node, or its login, and leave the waiting to this file.
*/

// Poll is how often a daemon that starts is asked: it is there in some 40 ms.
const Poll = 2 * time.Millisecond

// UpArgs are the arguments of tailnet_node_up.
type UpArgs struct {
	WaitForPerson bool   `json:"wait_for_person"`
	KnownURL      string `json:"known_url"`
}

const upMask = ipn.NotifyInitialState | ipn.NotifyInitialHealthState | ipn.NotifyInitialPrefs

// AwaitRunning watches the IPN bus until a row decides. login, where there is one, is called
// once the bus is watched: control's answer is heard, and not taken for one to an earlier key.
// again, where there is one, is called where the node turns out to need a login, once.
func (s *Session) AwaitRunning(ctx context.Context, c *config.Config, log *logs.Logger, args UpArgs, login, again func(context.Context) error) error {
	// tsnet's Up waits for ever where control cannot be reached; and its Close takes
	// 5 s while a watcher is open, so this one ends before we return.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	notes := make(chan ipn.Notify)
	lost := make(chan struct{}, 1)
	bridge.Go(func() {
		s.watchBus(ctx, upMask, func(n ipn.Notify) { deliver(ctx, notes, n) }, func() {
			select {
			case lost <- struct{}{}:
			default:
			}
		})
	})

	var w progress
	var begun chan error // what is heard until the login has begun is of an earlier one
	begin := func() {
		if w.state == ipn.Running { // with what it had before this login
			w.state = ipn.NoState
		}
		begun = make(chan error, 1)
		bridge.Go(func() { begun <- login(ctx) })
	}
	w.loginKnown = args.KnownURL
	// The caller may have seen the login through just now: the news takes a moment.
	if !args.WaitForPerson && s.URL != "" {
		w.loginKnown = s.URL
	}
	loginGrace := time.NewTimer(Grace)
	defer loginGrace.Stop()
	silence := time.NewTimer(c.Timeout())
	defer silence.Stop()
	approval := time.NewTimer(time.Hour)
	approval.Stop()
	defer approval.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-begun:
			if err != nil {
				return err
			}
			login, begun = nil, nil
		case <-lost: // a daemon; it may be back already, with the login that was begun
			if err := s.host.WhyGone(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		case <-silence.C:
			if w.waitsForPerson() {
				silence.Reset(c.Timeout())
				continue
			}
			if said := cmp.Or(w.loginError, w.stale); w.heard && said != "" { // control says it of this key too
				w.loginError, w.stale, w.heard = said, "", false
				break
			}
			if s.host.Offline() {
				return fault.New(fault.Connect, "no answer from %s within %v, and this machine has no network but its loopback; connect it", c.ControlName(), c.Timeout())
			}
			return fault.New(fault.Connect, "no answer from %s within %v (state %v); check the server, or raise connect_timeout", c.ControlName(), c.Timeout(), w.state)
		case <-loginGrace.C:
			if !args.WaitForPerson {
				w.loginKnown = ""
			}
		case <-approval.C:
			if w.state == ipn.NeedsMachineAuth && !args.WaitForPerson {
				return unapproved(c)
			}
		case n := <-notes:
			before := w.state
			if login != nil {
				w.begins(n)
				if begun == nil {
					begin()
				}
			} else {
				w.note(n)
			}
			if w.state != before {
				silence.Reset(c.Timeout())
			}
			if w.state == ipn.NeedsMachineAuth && before != ipn.NeedsMachineAuth {
				approval.Reset(Grace)
			}
		}
		running, err := w.decide(c, args.WaitForPerson)
		if err != nil && (err.Code == fault.Auth || err.Code == fault.LoginRequired) && again != nil {
			// A node that knows the tailnet tries by itself, without our key, and its refusal
			// may come before our login, or after it has begun. Only the second is surely ours.
			login, again = again, nil
			w.begins(ipn.Notify{})
			begin()
			continue
		}
		if err != nil {
			err.Message = log.Redact(err.Message)
			s.URL = w.url
			return err
		}
		if running && login == nil { // else it runs with what it had
			return nil
		}
	}
}

// Pending reports whether an attempt that has failed may go on: somebody must act first, or the
// caller gave up.
func Pending(ctx context.Context, err error) bool {
	return ctx.Err() != nil || fault.Is(err, fault.LoginRequired) || fault.Is(err, fault.ApprovalRequired)
}

func deliver(ctx context.Context, notes chan<- ipn.Notify, n ipn.Notify) {
	select {
	case notes <- n:
	case <-ctx.Done():
	}
}
