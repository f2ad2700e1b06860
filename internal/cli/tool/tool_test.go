package tool

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"groundswell/internal/cli"
)

type greet struct {
	Name string `arg:"" help:"Whom."`
	Fail bool   `help:"Fail."`
}

func (g *greet) Run(_ context.Context, io cli.Streams, suffix string) error {
	if g.Fail {
		return cli.Exit(3, errors.New("no voice"))
	}
	_, err := io.Out.Write([]byte("hello " + g.Name + suffix))
	return err
}

func TestToolExitCodes(t *testing.T) {
	cases := []struct {
		args        []string
		code        int
		out, stderr string
	}{
		{[]string{"greet", "you"}, cli.OK, "hello you!", ""},
		{[]string{"greet", "you", "--fail"}, 3, "", "tool: no voice\n"},
		{[]string{"greet"}, cli.Usage, "", "Try: tool greet"},
		{[]string{"grete", "you"}, cli.Usage, "", "grete"},
		{nil, cli.Usage, "greet", ""},
		{[]string{"greet", "--help"}, cli.OK, "Whom", ""},
	}
	for _, c := range cases {
		var grammar struct {
			VersionFlag
			Greet greet `cmd:"" help:"Say hello."`
		}
		var out, errOut bytes.Buffer
		tool := Tool{Name: "tool", Description: "A tool.", Grammar: &grammar, Bind: []any{"!"}}
		code := tool.Exec(t.Context(), c.args, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errOut.String(), c.stderr) {
			t.Errorf("%q: code %d, want %d; out %q; stderr %q", c.args, code, c.code, out.String(), errOut.String())
		}
	}
}
