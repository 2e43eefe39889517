// Package fault is the error that crosses the C boundary: a code of tailnet.h and
// what a person needs to know. exports.go checks the codes against the header.
package fault

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Code is a return code of tailnet.h.
type Code int32

const (
	OK      Code = 0
	Pending Code = 7001

	Argument            Code = 7002
	Internal            Code = 7003
	Handle              Code = 7004
	Config              Code = 7005
	Auth                Code = 7006
	LoginRequired       Code = 7007
	ApprovalRequired    Code = 7008
	Connect             Code = 7009
	NotRunning          Code = 7010
	Timeout             Code = 7011
	Dial                Code = 7012
	Refused             Code = 7013
	Unreachable         Code = 7014
	Name                Code = 7015
	AddressInUse        Code = 7016
	AddressNotAvailable Code = 7017
	StateLocked         Code = 7018
	Unsupported         Code = 7019
	Closed              Code = 7020
	NotFound            Code = 7021
	Reset               Code = 7022
	Resource            Code = 7023
)

// Error is the "error" document of tailnet.h.
type Error struct {
	Code       Code    `json:"code"`
	Message    string  `json:"message"`
	URL        string  `json:"url,omitempty"`         // LoginRequired: where the person must go
	RetryAfter float64 `json:"retry_after,omitempty"` // Connect: seconds the control server asked for
	Errno      int     `json:"errno,omitempty"`       // Dial, Resource: the errno of the nearest system error
}

func (e *Error) Error() string { return e.Message }

// New returns an *Error with a formatted message.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Of returns err as an *Error; one that is none of ours is Internal, because
// whoever met it first should have given it a code.
func Of(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return For(Internal, err, "unexpected error")
}

// lacks is what a machine can run out of, and what helps. The text of ENFILE begins with that of
// EMFILE.
var lacks = []struct {
	errno syscall.Errno
	help  string
}{
	{syscall.ENFILE, "raise this machine's limit (fs.file-max)"},
	{syscall.EMFILE, "close some files or sockets, or raise the limit (ulimit -n)"},
	{syscall.ENOBUFS, "free some memory"},
	{syscall.ENOMEM, "free some memory"},
	{syscall.ENOSPC, "make room there"},
	{syscall.EDQUOT, "make room there"},
}

// For returns an error about err: Resource where this machine has run out of
// something, and code for any other reason.
func For(code Code, err error, format string, args ...any) *Error {
	e := New(code, "%s: %v", fmt.Sprintf(format, args...), err)
	if errno, help := lack(err); errno != 0 {
		e.Code, e.Errno = Resource, int(errno)
		e.Message += "; " + help
	}
	return e
}

// Lacks reports whether err says that this machine has run out of something.
func Lacks(err error) bool {
	errno, _ := lack(err)
	return errno != 0
}

// lack returns the errno by which err says so, or 0. Some of Tailscale's errors have only its text.
func lack(err error) (syscall.Errno, string) {
	var errno syscall.Errno
	isErrno := errors.As(err, &errno)
	for _, each := range lacks {
		if errno == each.errno || !isErrno && strings.Contains(err.Error(), each.errno.Error()) {
			return each.errno, each.help
		}
	}
	return 0, ""
}

// Is reports whether err carries the code.
func Is(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}
