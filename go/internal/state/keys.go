package state

import (
	"errors"
	"path/filepath"
	"sync"

	"tailscale.com/control/controlclient"
	"tailscale.com/ipn"
	"tailscale.com/ipn/store"
	"tailscale.com/ipn/store/mem"
	"tailscale.com/types/key"
	tslogger "tailscale.com/types/logger"

	"tailnet/internal/fault"
)

/*
A control server knows a node by two keys: the machine key, and the node key that it registers
with. Tailscale's code keeps a new node key in memory until the first network map comes. Whoever
gives up before that, or dies, would come back with another node key: a second machine for the
server, and where the auth key was for one use, "already used". So a node key is in the store
before it is sent, and the next attempt, of this process or of the next one on the same state
directory, sends it again. The server then knows the node and asks it for no auth key.
*/

// Keys are what the store of a node has: its machine key, its node key, and its preferences.
type Keys struct {
	ipn.StateStore
	Machine key.MachinePrivate
}

const StateFile = "tailscaled.state" // tsnet's, and tailscaled's

// tryingKey is where the store has a node key of which no network map has come yet.
const tryingKey = ipn.StateKey("_tailnet-trying-node-key")

// identities are those of the nodes that run, by their machine keys.
var identities sync.Map // key.MachinePublic to *identity

func init() {
	controlclient.NewNodeKey = func(machine key.MachinePublic) key.NodePrivate {
		if id, ok := identities.Load(machine); ok {
			return id.(*Keys).newNodeKey()
		}
		return key.NewNode()
	}
}

// OpenKeys is ReadKeys that makes the machine key of a new machine.
func OpenKeys(logf tslogger.Logf, dir string) (*Keys, error) {
	id, err := ReadKeys(logf, dir)
	if err != nil || !id.Machine.IsZero() {
		return id, err
	}
	id.Machine = key.NewMachine()
	text, err := id.Machine.MarshalText()
	if err == nil {
		err = id.WriteState(ipn.MachineKeyStateKey, text)
	}
	if err != nil {
		return nil, stateError(err, "write to %s", filepath.Join(dir, StateFile), "let this user write to it")
	}
	return id, nil
}

// ReadKeys reads the store of a state directory, or makes one in memory. A machine that has never
// been up has no machine key.
func ReadKeys(logf tslogger.Logf, dir string) (*Keys, error) {
	var err error
	id, where := &Keys{}, filepath.Join(dir, StateFile)
	if dir == "" {
		id.StateStore, err = mem.New(logf, "")
	} else {
		id.StateStore, err = store.NewFileStore(logf, where)
	}
	if err != nil {
		return nil, stateError(err, "read %s", where, "let this user read it")
	}
	text, err := id.ReadState(ipn.MachineKeyStateKey)
	if errors.Is(err, ipn.ErrStateNotExist) {
		return id, nil
	}
	if err != nil || id.Machine.UnmarshalText(text) != nil || id.Machine.IsZero() {
		return nil, fault.New(fault.Config, "state_dir: the MachineKey in %s is damaged; restore the state, or remove it to join as a new machine", where)
	}
	return id, nil
}

// Use makes Tailscale's code ask id for new node keys, until the returned function is called.
func (id *Keys) Use() (stop func()) {
	identities.Store(id.Machine.Public(), id)
	return func() { identities.CompareAndDelete(id.Machine.Public(), id) }
}

// Prefs returns the node's preferences; those of a node that has not joined have no Persist.
func (id *Keys) Prefs() *ipn.Prefs {
	prefs := ipn.NewPrefs()
	if profile, err := id.ReadState(ipn.CurrentProfileStateKey); err == nil {
		if text, err := id.ReadState(ipn.StateKey(profile)); err == nil && ipn.PrefsFromBytes(text, prefs) == nil {
			return prefs
		}
	}
	return ipn.NewPrefs()
}

// NodeKey returns the node key of a node that has joined; zero where it has not.
func (id *Keys) NodeKey() key.NodePrivate {
	if p := id.Prefs().Persist; p != nil {
		return p.PrivateNodeKey
	}
	return key.NodePrivate{}
}

// newNodeKey returns the node key to register with.
func (id *Keys) newNodeKey() (k key.NodePrivate) {
	if text, err := id.ReadState(tryingKey); err == nil && k.UnmarshalText(text) == nil && !k.IsZero() {
		return k
	}
	k = key.NewNode()
	if text, err := k.MarshalText(); err == nil {
		id.WriteState(tryingKey, text) // where the disk is full, the preferences cannot be written either
	}
	return k
}

// Settle forgets the node key that was tried, where the server's answer to it is final: it is in
// the preferences, or of no use any more.
func (id *Keys) Settle(useless bool) {
	text, err := id.ReadState(tryingKey)
	if err != nil || len(text) == 0 {
		return
	}
	var k key.NodePrivate
	if useless || k.UnmarshalText(text) != nil || k.Equal(id.NodeKey()) {
		id.WriteState(tryingKey, nil)
	}
}
