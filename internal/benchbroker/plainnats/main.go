// Plainnats serves MQTT with nats-server as it is: its own MQTT, with JetStream
// below. The broker benchmark puts it beside our broker, which uses the same
// JetStream and an MQTT of its own.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"groundswell/internal/benchbroker/servertls"
	"groundswell/internal/ops"

	"github.com/nats-io/nats-server/v2/server"
)

type options struct {
	Cert, Key, CA string
	Data          string
	Addresses     string
}

func main() {
	var o options
	flag.StringVar(&o.Cert, "cert", "", "the server's certificate, PEM")
	flag.StringVar(&o.Key, "key", "", "its key, PEM")
	flag.StringVar(&o.CA, "ca", "", "the authority of the clients, PEM")
	flag.StringVar(&o.Data, "data", "", "directory of JetStream")
	flag.StringVar(&o.Addresses, "addresses", "", "file that gets the address when it is bound")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintf(os.Stderr, "plainnats: %v\n", err)
		os.Exit(1)
	}
}

// run serves until SIGTERM.
func run(o options) error {
	tlsConfig, err := servertls.Config(o.Cert, o.Key, o.CA)
	if err != nil {
		return err
	}
	free, err := net.Listen("tcp", "127.0.0.1:0") // the server does not tell which port it took
	if err != nil {
		return err
	}
	address := free.Addr().String()
	port := free.Addr().(*net.TCPAddr).Port
	if err := free.Close(); err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "plain", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		MaxConn: 1_000_000, JetStream: true, StoreDir: o.Data,
		MQTT: server.MQTTOpts{Host: "127.0.0.1", Port: port, TLSConfig: tlsConfig, TLSTimeout: 10, MaxAckPending: 1024},
	})
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return errors.New("it does not listen on port " + strconv.Itoa(port))
	}
	if err := ops.WriteAddresses(o.Addresses, map[string]string{"mqtt": address}); err != nil {
		return err
	}
	<-stop
	s.Shutdown()
	return nil
}
