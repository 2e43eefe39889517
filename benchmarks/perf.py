"""Sort what `perf` has sampled by what it was for, whoever's code that is: Go, CPython, the kernel.

A sample is a stack. Going outwards from where the processor was, the first frame that a rule of
RULES knows says what the time was for: so memmove counts for its caller, and the kernel's share of
a system call for what it does.

Read next: profiles.py, which takes the samples.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

Seconds = dict[str, float]

PYTHON, OTHER = "Python", "everything else"

RULES = [
    (category, re.compile(pattern))
    for category, pattern in (
        # The kernel. What a task that goes to sleep costs is counted where it sleeps.
        ("unix sockets", r"^unix_(stream|dgram|accept|release|shutdown|poll|bind|find)"),
        ("unix sockets", r"^(__sys_(connect|accept4|socketpair|socket)\b|sock_alloc_send)"),
        ("UDP", r"^(udpv?6?_|inet6?_(send|recv)msg|ip6?_(local|output|rcv)|net_rx_action)"),
        ("UDP", r"^__sys_(send|recv)m?msg"),
        ("TCP", r"^tcp_"),
        ("threads that wait and wake (futex)", r"^(do_futex|__x64_sys_futex|futex_)"),
        ("waiting for descriptors (epoll, poll)", r"^(do_epoll_|ep_poll|__x64_sys_(epoll|p?poll))"),
        ("sleeping a moment (nanosleep, yield)", r"^__x64_sys_(clock_)?nano?sleep|sched_yield"),
        ("descriptors (open, close, fcntl)", r"^__x64_sys_(close|openat|fcntl|dup|setsockopt)"),
        ("threads that begin and end", r"^(kernel_clone|do_exit|clone3|start_thread)"),
        ("signals", r"^__x64_sys_(tgkill|rt_sigreturn|rt_sigprocmask|sigaltstack)"),
        ("memory from the kernel", r"^(asm_exc_page_fault|do_user_addr_fault|__x64_sys_m)"),
        # Go.
        (
            "Go: memory",
            r"^runtime\.(mallocgc|gc|scan|mark|sweep|bgsweep|newobject|growslice|greyob)",
        ),
        (
            "Go: memory",
            r"^runtime\.\((\*gc|\*mheap|\*mcache|\*mspan|\*mcentral|\*sweep|\*unwinder)",
        ),
        ("Go: memory", r"^runtime\.(newstack|copystack|morestack|stackalloc|typedslicecopy)"),
        ("Go: scheduler", r"^runtime\.(schedule|findRunnable|park_m|mcall|goready|ready|wakep)"),
        ("Go: scheduler", r"^runtime\.(netpoll|stealWork|startm|stopm|notesleep|notewakeup|futex)"),
        ("Go: scheduler", r"^runtime\.(usleep|sysmon|runqgrab|gopark|execute|resetspinning)"),
        ("Go: scheduler", r"^runtime\.(exitsyscall|(re)?entersyscall|lock2|unlock2|checkTimers)"),
        ("Go: cgo calls", r"^(runtime\.cgo|crosscall|_cgoexp|runtime/cgo)"),
        ("encryption", r"chacha20|poly1305|blake2|curve25519|crypto/"),
        ("WireGuard", r"wireguard-go"),
        ("tailnet: pump and operations", r"^tailnet/|^main\..*\(libtailnet"),
        ("netstack (gVisor)", r"^gvisor\.dev/"),
        ("Tailscale", r"^tailscale\.com/"),
        ("the program in Go", r"^(main\.|net/http\b)"),
        # Python: by the file, because much of it has names of its own.
        (
            PYTHON,
            r"\((libpython|python3|_native|_cffi|_socket|select|uvloop|loop\.|_asyncio|_json)",
        ),
        (PYTHON, r"\(.*(pydantic|lib-dynload)"),
    )
]


class Sample(NamedTuple):
    """Where the processor was."""

    pid: int
    seconds: float
    stack: tuple[str, ...]  # "function (file)", innermost first


def parse(text: str) -> Iterator[Sample]:
    """Yield the samples of `perf script -F pid,period,ip,sym,dso`."""
    for block in text.split("\n\n"):
        lines = block.strip("\n").split("\n")
        head = re.match(r"\s*(\d+)\s+(\d+)\b", lines[0])
        if not head:
            continue
        frames = []
        for line in lines[1:]:
            found = re.match(r"\s*[0-9a-f]+ (.*) \((.*)\)$", line)
            if found:
                frames.append(f"{found[1]} ({found[2].rpartition('/')[2]})")
        yield Sample(int(head[1]), int(head[2]) / 1e9, tuple(frames))


def category(stack: Iterable[str]) -> str:
    """Say what a sample was for."""
    for frame in stack:
        for name, pattern in RULES:
            if pattern.search(frame):
                return name
    return OTHER


def by_category(samples: Iterable[Sample]) -> Seconds:
    """Return the seconds by what they were for."""
    seconds: Seconds = defaultdict(float)
    for sample in samples:
        seconds[category(sample.stack)] += sample.seconds
    return seconds


# What every system call and every sleep goes through, and says nothing.
_ON_EACH_WAY = re.compile(
    r"^(do_syscall|entry_SYSCALL|__x64_sys|finish_task|__?schedule|schedule_|hrtimer|do_nanosleep"
    r"|internal/runtime/syscall|syscall\.|\[unknown\])"
)
_LENGTH = 7  # frames of a way that are shown


def ways(samples: Iterable[Sample], what: str) -> Seconds:
    """Return the seconds of a category by the way that led there, innermost first."""
    seconds: Seconds = defaultdict(float)
    for sample in samples:
        if category(sample.stack) == what:
            names = [frame.rpartition(" (")[0] for frame in sample.stack]
            told = [name for name in names if not _ON_EACH_WAY.search(name)]
            seconds[" < ".join(told[:_LENGTH])] += sample.seconds
    return seconds


def innermost(samples: Iterable[Sample]) -> Seconds:
    """Return the seconds by function, without what it calls."""
    seconds: Seconds = defaultdict(float)
    for sample in samples:
        seconds[sample.stack[0] if sample.stack else "?"] += sample.seconds
    return seconds
