// Plainmochi serves MQTT with mochi-mqtt/server as it is: its own listener, its
// own sessions, and a hook that allows everything. The broker benchmark puts it
// beside our broker, which uses only the codec and the rules of CONNECT of the same
// library.
package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"groundswell/internal/benchbroker/servertls"
	"groundswell/internal/ops"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

type options struct {
	Cert, Key, CA string
	Addresses     string
	Tuned         bool
}

func main() {
	var o options
	flag.StringVar(&o.Cert, "cert", "", "the server's certificate, PEM")
	flag.StringVar(&o.Key, "key", "", "its key, PEM")
	flag.StringVar(&o.CA, "ca", "", "the authority of the clients, PEM")
	flag.StringVar(&o.Addresses, "addresses", "", "file that gets the address when it is bound")
	flag.BoolVar(&o.Tuned, "tuned", false, "small buffers and queues instead of the defaults")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintf(os.Stderr, "plainmochi: %v\n", err)
		os.Exit(1)
	}
}

// run serves until SIGTERM. It keeps nothing, so it ends without a goodbye.
func run(o options) error {
	tlsConfig, err := servertls.Config(o.Cert, o.Key, o.CA)
	if err != nil {
		return err
	}
	server := mochi.New(settings(o.Tuned))
	if err := server.AddHook(&allow{}, nil); err != nil {
		return err
	}
	tcp := listeners.NewTCP(listeners.Config{ID: "mqtt", Address: "127.0.0.1:0", TLSConfig: tlsConfig})
	if err := server.AddListener(tcp); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if err := server.Serve(); err != nil {
		return err
	}
	if err := ops.WriteAddresses(o.Addresses, map[string]string{"mqtt": tcp.Address()}); err != nil {
		return err
	}
	<-stop
	return nil
}

// settings are mochi's defaults, or what saves memory for many idle clients.
func settings(tuned bool) *mochi.Options {
	o := &mochi.Options{
		Capabilities: mochi.NewDefaultServerCapabilities(),
		Logger:       slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError})),
	}
	if tuned {
		o.Capabilities.MaximumClientWritesPending = 128
		o.ClientNetReadBufferSize = 512
		o.ClientNetWriteBufferSize = 512
		o.SysTopicResendInterval = 3600
	}
	return o
}

// allow lets everybody do everything; the certificate was checked.
type allow struct{ mochi.HookBase }

func (*allow) ID() string { return "allow" }

func (*allow) Provides(what byte) bool {
	return what == mochi.OnConnectAuthenticate || what == mochi.OnACLCheck
}

func (*allow) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

func (*allow) OnACLCheck(*mochi.Client, string, bool) bool { return true }
