"""What the agent itself asks of others and tells them: packages of registries, notices of how executions ended."""
