package main

import (
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
)

// The services, as in benchmarks/ends.py: echo gives back what it gets; work takes a header
// (what, and how many bytes) and takes or sends so many; hold says one byte, and no more;
// http answers requests.
var ports = map[string]int{"echo": 7, "work": 9, "hold": 11, "http": 80}

const (
	writeSize = 64 << 10
	readSize  = 256 << 10
	answerLen = 1024 // bytes of an HTTP answer's body
)

func serve(nw *network, ip string) (map[string]string, error) {
	address := map[string]string{}
	for name, port := range ports {
		ln, err := nw.listen(port)
		if err != nil {
			return nil, err
		}
		if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
			port = tcp.Port // tsnet's says ":80", and is no TCPAddr
		}
		address[name] = net.JoinHostPort(ip, strconv.Itoa(port))
		if name == "http" {
			go http.Serve(ln, service(nw))
			continue
		}
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				go answers[name](conn)
			}
		}()
	}
	return address, nil
}

var answers = map[string]func(net.Conn){
	"echo": func(conn net.Conn) {
		defer conn.Close()
		buf := make([]byte, writeSize)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			if _, err := conn.Write(buf[:n]); err != nil {
				return
			}
		}
	},
	"work": func(conn net.Conn) {
		defer conn.Close()
		var header [9]byte
		if _, err := io.ReadFull(conn, header[:]); err != nil {
			return
		}
		size := int64(binary.BigEndian.Uint64(header[1:]))
		transfer(conn, header[0] != 'u', header[0] != 'd', size)
		conn.Write([]byte("k"))
		conn.Read(header[:1]) // until the other end has read it and closes
	},
	"hold": func(conn net.Conn) {
		defer conn.Close()
		conn.Write([]byte("h"))
		conn.Read(make([]byte, 1))
	},
}

// transfer sends so many bytes, receives so many, or both at once.
func transfer(conn net.Conn, send, receive bool, size int64) {
	var both sync.WaitGroup
	if send {
		both.Go(func() {
			block := make([]byte, writeSize)
			for left := size; left > 0; left -= int64(len(block)) {
				block = block[:min(left, writeSize)]
				if _, err := conn.Write(block); err != nil {
					return
				}
			}
		})
	}
	if receive {
		buf := make([]byte, readSize)
		for left := size; left > 0; {
			n, err := conn.Read(buf[:min(left, readSize)])
			if err != nil {
				break
			}
			left -= int64(n)
		}
	}
	both.Wait()
}

func service(nw *network) http.Handler {
	body := make([]byte, answerLen)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { w.Write(body) })
	mux.HandleFunc("/who", func(w http.ResponseWriter, r *http.Request) {
		if nw.local != nil {
			who, err := nw.local.WhoIs(r.Context(), r.RemoteAddr)
			if err != nil {
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
			w.Header().Set("X-User", who.UserProfile.LoginName)
		}
		w.Write(body)
	})
	return mux
}
