// The Go types of the custom resources that deploy/ has, for controller-gen to make their definitions of.
package main

import (
	_ "github.com/kedacore/keda/v2/apis/keda/v1alpha1"
	_ "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
)

func main() {}
