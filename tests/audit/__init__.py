"""The trail and its readers, on the embedded broker; `make test-audit` runs them."""
