"""The actions of the k8s adapter: each is a step's configuration with all values in place, and a cluster."""
