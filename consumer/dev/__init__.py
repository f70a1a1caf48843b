"""What `wpk dev` and `wpk demo` need on one machine and production never needs: a broker that dies with its owner."""
