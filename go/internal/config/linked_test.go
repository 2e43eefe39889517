package config

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What the packages say that are linked into the library.

var update = flag.Bool("update", false, "write variables.txt")

// linked calls f with each file of the packages behind these ones, other than Go's own, and
// whether it is compiled here: files for another platform, say, are not.
func linked(t *testing.T, f func(pkg, file string, compiled bool), packages ...string) {
	t.Helper()
	format := "{{if not .Standard}}{{.ImportPath}} {{.Dir}}{{range .GoFiles}} {{.}}{{end}}{{range .CgoFiles}} {{.}}{{end}}{{end}}"
	list := exec.Command("go", append([]string{"list", "-deps", "-f", format}, packages...)...)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		files, err := filepath.Glob(filepath.Join(words[1], "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no source in %s: %v", words[1], err)
		}
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				f(words[0], file, slices.Contains(words[2:], filepath.Base(file)))
			}
		}
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var variable = regexp.MustCompile(`"(TS(NET)?_[A-Z0-9_]+)"`)

// TestVariables holds variables.txt to what the library's packages read, and those of a
// tailscaled, which has the environment of the node that starts it.
func TestVariables(t *testing.T) {
	found := map[string]bool{}
	linked(t, func(_, file string, _ bool) {
		for _, m := range variable.FindAllSubmatch(read(t, file), -1) {
			found[string(m[1])] = true
		}
	}, "tailnet", "tailscale.com/cmd/tailscaled")
	var names []string
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	want := strings.Join(names, "\n") + "\n"
	if *update {
		if err := os.WriteFile("variables.txt", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if variables != want {
		t.Error("variables.txt is out of date: run `python build_go.py --exec go test ./internal/node -run TestVariables -update`")
	}
}

// ends matches a call that ends the process, outside of comments.
var ends = regexp.MustCompile(`(?m)^\s*([^/\s].*)?\b((os|syscall|unix)\.Exit|log\.(Fatal|Panic)(f|ln)?)\(`)

// TestEnds holds the list of docs/errors.md to the calls that end the process.
func TestEnds(t *testing.T) {
	document := string(read(t, "../../../docs/errors.md"))
	_, list, ok := strings.Cut(document, "## What can end the process")
	if !ok {
		t.Fatal("docs/errors.md has no list")
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(list, -1) {
		documented[m[1]] = true
	}
	found := map[string]bool{}
	linked(t, func(pkg, file string, compiled bool) {
		if compiled && !strings.HasPrefix(pkg, "tailnet") && ends.Match(read(t, file)) {
			found[pkg] = true
		}
	}, "tailnet")
	for pkg := range found {
		if !documented[pkg] {
			t.Errorf("%s can end the process, and docs/errors.md does not say when", pkg)
		}
	}
	for pkg := range documented {
		if !found[pkg] {
			t.Errorf("%s ends no process; drop it from docs/errors.md", pkg)
		}
	}
}
