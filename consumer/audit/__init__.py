"""The trail as evidence: verified, told, exported. Computes over records that others read; has no way to any effect."""
