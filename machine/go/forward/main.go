// Command forward publishes one TCP address of the cluster's network namespace on another address:
//
//	forward LISTEN TARGET
//
// Bytes are spliced by the kernel. When a side has sent its last byte, the other is told (half-close),
// so that a response still arrives after a client has shut down its sending side.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

func relay(client *net.TCPConn, target string) {
	defer client.Close()
	connection, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		// A reset, not an orderly end: a client must not take it for an empty response.
		client.SetLinger(0)
		return
	}
	server := connection.(*net.TCPConn)
	defer server.Close()
	var directions sync.WaitGroup
	copyThenClose := func(to, from *net.TCPConn) {
		defer directions.Done()
		io.Copy(to, from)
		to.CloseWrite()
	}
	directions.Add(2)
	go copyThenClose(server, client)
	go copyThenClose(client, server)
	directions.Wait()
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: forward LISTEN TARGET, each host:port")
		os.Exit(2)
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			time.Sleep(100 * time.Millisecond) // out of file descriptors: wait for some to come back
			continue
		}
		go relay(connection.(*net.TCPConn), os.Args[2])
	}
}
