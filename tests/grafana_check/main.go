// Reads Grafana dashboards as Grafana's own types do, strictly: unknown fields, wrong types, missing fields and
// options that a panel does not have are errors. Prints what is wrong and ends with 1.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/bargauge"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/text"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// The kinds of panels that our dashboards use. The SDK can register all there are, which takes three times as long to
// build.
var kinds = []variants.PanelcfgConfig{
	bargauge.VariantConfig(),
	heatmap.VariantConfig(),
	stat.VariantConfig(),
	statetimeline.VariantConfig(),
	table.VariantConfig(),
	text.VariantConfig(),
	timeseries.VariantConfig(),
}

func main() {
	runtime := cog.NewRuntime()
	runtime.RegisterDataqueryVariant(prometheus.VariantConfig())
	for _, kind := range kinds {
		runtime.RegisterPanelcfgVariant(kind)
	}
	status := 0
	for _, path := range os.Args[1:] {
		for _, problem := range check(path) {
			fmt.Printf("%s: %s\n", path, problem)
			status = 1
		}
	}
	os.Exit(status)
}

func check(path string) []string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return []string{err.Error()}
	}
	// Read twice: the strict reading finds what does not belong, but leaves out the panels of what it has read.
	var strict, read dashboard.Dashboard
	var problems []string
	for _, err := range []error{strict.UnmarshalJSONStrict(raw), json.Unmarshal(raw, &read), read.Validate()} {
		// The SDK returns an empty list of errors where there are none, which is an error that is not nil.
		if err != nil && err.Error() != "" {
			problems = append(problems, err.Error())
		}
	}
	for _, panel := range read.Panels {
		// Of kinds that are not registered the SDK reads the options without a look at them.
		if panel.Panel != nil {
			if _, known := cog.ConfigForPanelcfgVariant(panel.Panel.Type); !known {
				problems = append(problems, "a panel of a kind that is not checked: "+panel.Panel.Type)
			}
		}
	}
	return problems
}
