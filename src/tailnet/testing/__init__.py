"""An offline tailnet: test what uses `tailnet` without an account, and without the network.

    with Testnet() as net, net.tailnet("api") as api, net.tailnet("caller") as caller:
        with api.listen(":80") as listener, caller.dial("api:80") as out:
            conn, peer = listener.accept()

It is Tailscale's own in-memory control server with a DERP relay and STUN, all on 127.0.0.1, in a
child process. What that control server cannot model: keys of different fates (there is one key,
every other one is wrong, and a node needs it at every start), the removal of ephemeral nodes, key
expiry that is announced before it happens. Peers stay "online" after they have gone.

Nothing leaves the machine: starting one sets variables in `os.environ` that keep Tailscale's code
from asking the outside world. They stay set, because that code reads them once per process.

Read next: _testnet.py, then _control.py.
"""

from __future__ import annotations

from ._control import ControlServer, ControlServerError, TestNode
from ._testnet import Testnet

__all__ = ["ControlServer", "ControlServerError", "TestNode", "Testnet"]
