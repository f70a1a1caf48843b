"""The pure core: what a package means and what happens next. Computation only: no await, no clock, no I/O."""
