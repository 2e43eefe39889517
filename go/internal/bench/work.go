package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// work is what the client does and measures, as in benchmarks/threads.py.
type work struct {
	nw      *network
	address map[string]string
	held    []net.Conn
}

func (w *work) dial(service string) (net.Conn, error) { return w.nw.dial(w.address[service]) }

func (w *work) firstDial() (any, error) {
	began := time.Now()
	conn, err := w.dial("echo")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	dialed := time.Since(began)
	if err := echo(conn, make([]byte, 1)); err != nil {
		return nil, err
	}
	return map[string]any{"dial_ms": ms(dialed), "byte_ms": ms(time.Since(began))}, nil
}

func echo(conn net.Conn, message []byte) error {
	if _, err := conn.Write(message); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, message)
	return err
}

// share runs f for each of count things, by so many workers, and returns how long that took.
func share(count, workers int, f func() error) (any, error) {
	var wg sync.WaitGroup
	var next atomic.Int64
	errs := make(chan error, workers)
	began := time.Now()
	for range workers {
		wg.Go(func() {
			for next.Add(1) <= int64(count) {
				if err := f(); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began).Seconds()
	select {
	case err := <-errs:
		return nil, err
	default:
		return map[string]any{"seconds": took}, nil
	}
}

// stream moves so many bytes on each of so many connections: "u"p, "d"own or "b"oth ways.
func (w *work) stream(kind string, streams int, size int64) (any, error) {
	header := binary.BigEndian.AppendUint64([]byte(kind), uint64(size))
	conns := make(chan net.Conn, streams)
	for range streams {
		conn, err := w.dial("work")
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		conns <- conn
	}
	return share(streams, streams, func() error {
		conn := <-conns
		if _, err := conn.Write(header); err != nil {
			return err
		}
		transfer(conn, kind != "d", kind != "u", size)
		_, err := io.ReadFull(conn, make([]byte, 1))
		return err
	})
}

func (w *work) roundTrip(size, count int) (any, error) {
	conn, err := w.dial("echo")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	message := make([]byte, size)
	times := make([]float64, count)
	for i := range times {
		began := time.Now()
		if err := echo(conn, message); err != nil {
			return nil, err
		}
		times[i] = time.Since(began).Seconds() * 1e6
	}
	slices.Sort(times)
	at := func(q float64) float64 { return times[int(q*float64(count-1))] }
	return map[string]any{"p50": at(0.5), "p99": at(0.99), "p999": at(0.999)}, nil
}

func (w *work) connect(count, workers int) (any, error) {
	return share(count, workers, func() error {
		conn, err := w.dial("echo")
		if err != nil {
			return err
		}
		defer conn.Close()
		return echo(conn, make([]byte, 1))
	})
}

// hold opens so many connections, and leaves them.
func (w *work) hold(count, workers int) (any, error) {
	var mu sync.Mutex
	return share(count, workers, func() error {
		conn, err := w.dial("hold")
		if err != nil {
			return err
		}
		mu.Lock()
		w.held = append(w.held, conn)
		mu.Unlock()
		_, err = io.ReadFull(conn, make([]byte, 1))
		return err
	})
}

func (w *work) release() (any, error) {
	began := time.Now()
	for _, conn := range w.held {
		conn.Close()
	}
	w.held = nil
	return map[string]any{"seconds": time.Since(began).Seconds()}, nil
}

// http asks the service, by so many workers, each on a connection of its own, or on one for
// each request.
func (w *work) http(count, workers int, keep bool, path string) (any, error) {
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: service\r\n\r\n", path)
	type open struct {
		net.Conn
		*bufio.Reader
	}
	idle := make(chan *open, workers)
	var mu sync.Mutex
	var all []net.Conn
	defer func() {
		for _, conn := range all {
			conn.Close()
		}
	}()
	return share(count, workers, func() error {
		var c *open
		select {
		case c = <-idle:
		default:
			conn, err := w.dial("http")
			if err != nil {
				return err
			}
			c = &open{conn, bufio.NewReader(conn)}
			if keep {
				mu.Lock()
				all = append(all, conn)
				mu.Unlock()
			} else {
				defer conn.Close()
			}
		}
		if _, err := c.Conn.Write(request); err != nil {
			return err
		}
		answer, err := http.ReadResponse(c.Reader, nil)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("the service answers %s", answer.Status)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			return err
		}
		if keep {
			idle <- c
		}
		return nil
	})
}

func (w *work) whois(count int) (any, error) {
	if w.nw.local == nil {
		return map[string]any{}, nil
	}
	began := time.Now()
	for range count {
		if _, err := w.nw.local.WhoIs(context.Background(), w.address["echo"]); err != nil {
			return nil, err
		}
	}
	return map[string]any{"us": time.Since(began).Seconds() * 1e6 / float64(count)}, nil
}
